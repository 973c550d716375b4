"""What the processor is good at, and how the process is set up for it: arithmetic and memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch

from guided_diffusion.config.types import Precision

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's <malloc.h>
_MADV_HUGEPAGE, _MADV_PAGEOUT = 14, 21  # of Linux's <sys/mman.h>
_HUGE = 1 << 21  # bytes of a huge page
_HEAP = 1 << 33  # bytes of the heap that are to be huge pages

_NO_MEMORY = re.compile(  # torch's allocator, C++, oneDNN ("a primitive descriptor" is another matter), CUDA
    "can't allocate memory|std::bad_alloc|could not create a (?:primitive|memory)(?! desc)"
    "|CUDA error: out of memory|CU(?:BLAS|DNN)_STATUS_\\w*ALLOC\\w*_FAILED"
)


def has_bf16(device: torch.device) -> bool:
    """True where bfloat16 matrix work is native, so that autocast to it pays."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_precision(wanted: Precision, device: torch.device) -> str:
    """fp32, tf32, bf16 or fp16: what is wanted, or what the device has that comes nearest.

    auto: bf16 where it is native, else fp16 on a GPU and fp32 on a CPU, which has no fast fp16 and
    no tf32; the weights are the same.
    """
    if device.type == "cpu":
        auto = "bf16" if has_bf16(device) else "fp32"
        return {"auto": auto, "fp16": "fp32", "tf32": "fp32"}.get(wanted, wanted)
    return ("bf16" if has_bf16(device) else "fp16") if wanted == "auto" else wanted


def round_products(precision: str) -> None:
    """Let NVIDIA GPUs take float32 products in TF32 if this is the precision, exactly if it is another.

    torch's own defaults round those of convolutions and not those of matrices. It has two ways to say so, and
    reading the older one, as inductor does, fails where only the newer was used: both are told the same.
    """
    rounded, told = precision == "tf32", "tf32" if precision == "tf32" else "ieee"
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.9 deprecated the older way; later ones took that back
        cudnn.allow_tf32 = matmul.allow_tf32 = rounded
    products: list[Any] = [cudnn.conv, cudnn.rnn, matmul]  # type: ignore[attr-defined]  # not in torch's stubs
    for each in products:
        each.fp32_precision = told


def batch_size(wanted: int | Literal["auto"], device: torch.device, side: int) -> int:
    """The most images of side x side pixels at once: what is wanted; auto: beyond which a device gains no
    more, some 2^15 pixels on a CPU and 2^20 on a GPU, and no more than 8 and 256 images. They are done, and
    saved, together.
    """
    if wanted != "auto":
        return wanted
    pixels, most = (1 << 15, 8) if device.type == "cpu" else (1 << 20, 256)
    return min(most, max(1, pixels // side**2))


def share_cores() -> None:
    """Under torchrun, give this process its part of the machine's cores; else leave torch's choice.

    torchrun itself gives every one of several ranks one thread. Two processes that both take all the cores
    slow each other up to 75-fold, since waiting threads spin. OMP_NUM_THREADS above 1, or for a single rank,
    is the user's word and stays.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if ranks > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks))


def available_memory() -> int:
    """Bytes that the system can still give to this process, as Linux tells them, if the ranks of this machine
    get equal parts; boundless where it does not tell.

    To ask beforehand is all that can be done: Linux promises memory that it does not have, and kills who
    comes to use it.
    """
    try:
        told = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        told = None
    return int(told[1]) * 1024 // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if told else sys.maxsize


def is_out_of_memory(error: Exception) -> bool:
    """True for what Python, torch and the libraries beneath it raise when a GPU or the system has no memory
    left: a MemoryError or one of several RuntimeErrors."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or bool(_NO_MEMORY.search(str(error)))


def let_go(values: torch.Tensor) -> None:
    """Have the system take back the pages of a tensor that nobody is to read now, if they are mapped from a
    file: a map of a checkpoint is one storage of all its tensors, and would stay whole until the last.

    It is a request (Linux 5.4 on); what is read all the same comes from the file again.
    """
    begin = -(-values.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = values.data_ptr() + values.nbytes - begin
    if values.device.type != "cpu" or length < mmap.PAGESIZE:
        return
    with suppress(AttributeError, OSError):  # another C library
        _advise()(begin, length // mmap.PAGESIZE * mmap.PAGESIZE, _MADV_PAGEOUT)


def keep_memory() -> bool:
    """Let glibc's malloc keep what the process gives back, in huge pages where they are to be had.

    A network's features are so large that malloc asks the system for them each time anew, page by page: up to
    a quarter of its time on a CPU. Results do not change; memory stays at its peak. False without glibc.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc, free, advise = libc.mallopt, libc.malloc, libc.free, _advise()
    except (AttributeError, OSError):  # another C library
        return False
    kept = all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, -1)])
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    free.argtypes = [ctypes.c_void_p]
    if kept and (block := malloc(_HEAP)):  # addresses alone: pages come when they are written to
        start = -(-block // _HUGE) * _HUGE
        advise(start, _HEAP - _HUGE, _MADV_HUGEPAGE)
        free(block)
    return kept


def _advise() -> Callable[[int, int, int], Any]:
    """The C library's madvise: address, bytes, advice. Raises AttributeError or OSError if it has none."""
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return advise
