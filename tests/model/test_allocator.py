"""Freed memory is used again instead of being fetched anew from the kernel."""

import platform
import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from footprints.model.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
# It takes a few before one finds a place to come back to.
for _ in range(20):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 2**26 // resource.getpagesize()


def page_faults(how: str, **environment: str) -> int:
    command = [sys.executable, "-c", FAULTS, how]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc takes the settings")
def test_a_tensor_takes_the_place_of_the_one_before_without_new_pages():
    # Huge pages would hide them.
    without = page_faults("returned")
    if without < PAGES:
        pytest.skip("this kernel maps the tensors in huge pages")
    assert page_faults("kept") < PAGES / 10
    assert page_faults("kept", MALLOC_MMAP_MAX_="65536") >= PAGES, "the user's settings hold"
