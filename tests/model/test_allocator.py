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


HEAPS = """
import ctypes, sys, threading
from footprints.model.allocator import share_heap

if sys.argv[1] == "shared":
    share_heap()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
kept = []
met = threading.Barrier(4)

def allocate():
    met.wait()
    kept.append(bytearray(100_000))

threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
stream = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"a"))
libc.malloc_info(0, stream)
libc.fclose(stream)
"""


def count_heaps(how: str, **environment: str) -> int:
    command = [sys.executable, "-c", HEAPS, how]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc takes the settings")
def test_threads_share_a_heap():
    assert count_heaps("apart") > 1
    assert count_heaps("shared") == 1
    assert count_heaps("shared", MALLOC_ARENA_MAX="8") > 1, "the user's settings hold"
