"""The one loop, where a whole training would not show it."""

import subprocess
import sys

SIGNALS_WITHIN_THE_HANDLER = """
import signal
import sys
from training.loop import finishing_the_step

def again(frame, event, arg):
    if event == "line":
        signal.raise_signal(signal.SIGTERM)
    return again

with finishing_the_step(tells=False) as asked:
    sys.settrace(again)
    signal.raise_signal(signal.SIGTERM)
    sys.settrace(None)
    print(bool(asked))
"""


def test_asked_to_end_while_it_is_asked_to_end() -> None:
    """A service manager's signal and the launcher's come at once; what the handler waits for would then never come."""
    command = [sys.executable, "-c", SIGNALS_WITHIN_THE_HANDLER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "True\n"
