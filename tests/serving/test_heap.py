import platform
import subprocess
import sys

import pytest

CODE = """
import sys
import asyncio
import psutil
from serving.heap import trim_now_and_then
large = b"x" * 30_000_000  # from now on, what is smaller comes from the heap
del large
resident = psutil.Process().memory_info
class Holder: pass
texts, small = [], []
for _ in range(300):
    texts.append(holder := Holder())
    holder.text, holder.itself = b"x" * 300_000, holder
    small.append(b"x" * 700)
del holder
most = resident().rss
texts.clear()
if sys.argv[1] == "True":
    try:
        asyncio.run(asyncio.wait_for(trim_now_and_then(0.01), 1))
    except TimeoutError:
        pass
print((most - resident().rss) / 90_000_000)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other systems have other heaps")
@pytest.mark.parametrize("asked", [True, False])
def test_texts_that_are_done_with_leave_the_process(asked: bool) -> None:
    process = subprocess.run([sys.executable, "-c", CODE, str(asked)], capture_output=True, text=True, check=True, timeout=60)
    assert (float(process.stdout) > 0.9) == asked
