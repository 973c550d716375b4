"""Memory: how much is available, errors that say it ran out, and how the process keeps and returns it."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's <malloc.h>
_MADV_HUGEPAGE, _MADV_PAGEOUT = 14, 21  # of Linux's <sys/mman.h>
_HUGE_PAGE = 1 << 21  # bytes
_HUGE_PAGE_HEAP = 1 << 33  # bytes of the heap that malloc may back with huge pages

_OUT_OF_MEMORY = re.compile(  # torch's allocator, C++, oneDNN (not "primitive descriptor"), CUDA
    "can't allocate memory|std::bad_alloc|could not create a (?:primitive|memory)(?! desc)"
    "|CUDA error: out of memory|CU(?:BLAS|DNN)_STATUS_\\w*ALLOC\\w*_FAILED"
)


def available_memory() -> int:
    """Return the bytes that Linux can still give to this process; `sys.maxsize` on other systems.

    The ranks of a machine get equal parts. Asking before allocating is the only protection: Linux promises
    memory that it does not have, and kills the process that uses it.
    """
    try:
        match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        match = None
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return int(match[1]) * 1024 // ranks if match else sys.maxsize


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that a GPU or the system has no memory left.

    It may be a MemoryError, torch's OutOfMemoryError, or a RuntimeError of oneDNN, C++ or CUDA.
    """
    is_typed = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return is_typed or bool(_OUT_OF_MEMORY.search(str(error)))


def release_mapped_pages(values: torch.Tensor) -> None:
    """Return to the system the pages of a tensor that is mapped from a file and not read any more.

    All tensors of a mapped checkpoint share one storage, which would otherwise stay in memory until the last
    one is gone. This is a request (Linux 5.4 on). A tensor that is read again is read from the file.
    """
    begin = -(-values.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = values.data_ptr() + values.nbytes - begin
    if values.device.type != "cpu" or length < mmap.PAGESIZE:
        return
    with suppress(AttributeError, OSError):  # another C library
        _madvise()(begin, length // mmap.PAGESIZE * mmap.PAGESIZE, _MADV_PAGEOUT)


def tune_malloc() -> bool:
    """Let glibc's malloc keep memory that the process frees, in huge pages where possible.

    A network's activations are so large that malloc otherwise asks the system for them again each time, page
    by page. That takes up to a quarter of the time on a CPU (docs/reports/benchmarks.md). Results do not
    change; resident memory stays at its peak.

    Returns:
        False without glibc, or when the environment variable PENUMBRA_MALLOC is 0; nothing is changed then.
    """
    if os.environ.get("PENUMBRA_MALLOC") == "0":
        return False
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc, free, madvise = libc.mallopt, libc.malloc, libc.free, _madvise()
    except (AttributeError, OSError):  # another C library
        return False
    tuned = all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, -1)])
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    free.argtypes = [ctypes.c_void_p]
    if tuned and (block := malloc(_HUGE_PAGE_HEAP)):  # addresses only: pages come when they are written to
        start = -(-block // _HUGE_PAGE) * _HUGE_PAGE
        madvise(start, _HUGE_PAGE_HEAP - _HUGE_PAGE, _MADV_HUGEPAGE)
        free(block)
    return tuned


def _madvise() -> Callable[[int, int, int], Any]:
    """Return the C library's madvise(address, bytes, advice).

    Raises:
        AttributeError, OSError: The C library has none.
    """
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return madvise
