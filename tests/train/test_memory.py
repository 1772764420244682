"""Freed memory stays with the process where the C library can be told so."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from openvjepa.train.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
faults = []
for step in range(12):  # as a step does: some tensors live until its end, others come and go
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    kept = []
    for mib in (40, 64, 48, 80, 36):
        torch.ones(mib * 2**18)
        kept.append(torch.ones(mib * 2**18))
print(faults[-1] - faults[4])
"""


def page_faults(keep: bool) -> int:
    """Of the later steps of a process."""
    command = [sys.executable, "-c", SCRIPT.format(keep=keep)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_later_steps_get_pages_of_earlier_ones() -> None:
    assert page_faults(keep=True) * 4 < page_faults(keep=False)
