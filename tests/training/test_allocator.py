"""Memory of a step that the next one finds again."""

import json
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource
import statistics
import torch
from training.engine.allocator import keep_freed_memory

def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def of_a_step():
    before = page_faults()
    ones = torch.ones(16_000_000)  # 64 MB, and as much again
    (ones + 1)[0]
    return page_faults() - before

def of_most_steps():  # some of the first ones still lay out the heap
    return statistics.median(of_a_step() for _ in range(15))

print([of_most_steps(), int(keep_freed_memory()), of_most_steps()])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_a_step_finds_the_memory_of_the_last() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    before, told, after = json.loads(done.stdout)
    assert told
    assert after < before / 100
