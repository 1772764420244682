"""Freed memory stays with the process where the C library can be told so, and so do oneDNN's kernels."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import resource, torch
from openvjepa.train.devices import keep_freed_memory
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


KERNELS = """
import torch
from openvjepa.train.devices import keep_kernels
if {keep}:
    keep_kernels()
weight = torch.zeros(16, 8, dtype=torch.bfloat16)
for rows in [*range(100, 1200), *range(100, 110)]:
    torch.nn.functional.linear(torch.zeros(rows, 8, dtype=torch.bfloat16), weight)
"""


def kernels_made(keep: bool) -> int:
    """By oneDNN, for products of 1,100 shapes, ten of which come again."""
    variables = {key: value for key, value in os.environ.items() if key != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
    command = [sys.executable, "-c", KERNELS.format(keep=keep)]
    environment = {**variables, "ONEDNN_VERBOSE": "profile_create", "OMP_NUM_THREADS": "1"}
    record = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, env=environment).stdout
    return record.count("create:cache_miss")


@pytest.mark.slow
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no products in bf16 here")
def test_kernels_of_many_shapes_are_kept() -> None:
    assert kernels_made(keep=False) - kernels_made(keep=True) == 10
