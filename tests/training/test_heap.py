"""What a step gives back stays with the process: its pages are not had from the system again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from raypose.training import heap

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another library than glibc has the heap"
)

# as a step does: blocks of a batch's activations, given back and asked for again
STEPS = """
import resource, sys, threading
import torch
from raypose.training import heap

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    held = [torch.ones(megabytes << 18) for megabytes in (12, 40, 100)]

def steps():
    if sys.argv[1] == "hold":
        heap.hold()
    for _ in range(10):  # until every block has found its place
        step()
    before = faults()
    for _ in range(4):
        step()
    found.append(faults() - before)

found = []
if sys.argv[2] == "thread":
    thread = threading.Thread(target=steps)
    thread.start()
    thread.join()
else:
    steps()
print(found[0])
"""
PAGES = 4 * (12 + 40 + 100) * 256  # of four steps


@pytest.mark.parametrize(
    ("how", "where", "environment", "stays"),
    [
        ("as it is", "main", {}, False),
        ("hold", "main", {}, True),
        ("as it is", "main", heap.ENVIRONMENT, True),
        ("as it is", "thread", heap.ENVIRONMENT, True),
    ],
)
def test_what_is_given_back_is_not_asked_for_again(
    how: str, where: str, environment: dict[str, str], stays: bool
) -> None:
    made = subprocess.run(
        [sys.executable, "-c", STEPS, how, where],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (int(made.stdout) < PAGES / 50) == stays, made.stdout
