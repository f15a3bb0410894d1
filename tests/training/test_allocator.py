"""Memory of a step that the next one finds again."""

import json
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource
import torch
from training.engine.allocator import keep_freed_memory

def page_faults():
    for _ in range(2):  # the first two lay out the heap
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def step():
    ones = torch.ones(16_000_000)  # 64 MB, and as much again
    return (ones + 1)[0]

print([page_faults(), int(keep_freed_memory()), page_faults()])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_a_step_finds_the_memory_of_the_last() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    before, told, after = json.loads(done.stdout)
    assert told
    assert after < before / 100
