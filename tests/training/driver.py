"""A training process for the tests to kill: driver.py RUN PRESET JOBS, the last one as JSON: [[FOLDER, SETTINGS], …].

One of several, if a launcher started it. Exit codes as those of the command line: 2 for a UserError, 130 for Ctrl-C.
CODELM_TEST_FILE_LIMIT: bytes a file may have.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

from codelm.config.preset import load_preset
from codelm.errors import UserError
from training.engine.ranks import end
from training.pretrain import pretrain

if __name__ == "__main__":
    run, preset, jobs = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    if limit := os.environ.get("CODELM_TEST_FILE_LIMIT"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        for folder, settings in jobs:
            pretrain(Path(folder), load_preset(preset).with_training(**settings), run / "tokens", run / "tokenizer", say=print)
        end()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
