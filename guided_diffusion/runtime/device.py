"""Precision, batch size and cores: what suits a device, and the process-wide settings of a computation."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, Literal, TypeVar

import torch

from guided_diffusion.config.types import Precision

Item = TypeVar("Item")

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

CPU_BATCH_PIXELS, CPU_MAX_BATCH = 1 << 15, 8  # larger batches are no faster: docs/reports/benchmarks.md
GPU_BATCH_PIXELS, GPU_MAX_BATCH = 1 << 20, 256


def has_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 matrices natively, so that autocast to it pays."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_precision(wanted: Precision, device: torch.device) -> str:
    """Return fp32, tf32, bf16 or fp16: the wanted precision, or the nearest that the device supports.

    `auto` is bf16 where it is native, else fp16 on a GPU and fp32 on a CPU. A CPU has no fast fp16 and no
    tf32; it takes fp32 instead. The weights are the same.
    """
    if device.type == "cpu":
        auto = "bf16" if has_bf16(device) else "fp32"
        return {"auto": auto, "fp16": "fp32", "tf32": "fp32"}.get(wanted, wanted)
    return ("bf16" if has_bf16(device) else "fp16") if wanted == "auto" else wanted


def set_tf32(precision: str) -> None:
    """Let NVIDIA GPUs compute float32 products in TF32 if `precision` is tf32, exactly otherwise.

    torch's default is TF32 for convolutions and not for matrices. torch has an older and a newer way to set
    it (the newer needs the minimum torch version of pyproject.toml). Both are set: reading the older one, as
    inductor does, raises an error where only the newer one was used.
    """
    allow, value = precision == "tf32", "tf32" if precision == "tf32" else "ieee"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some torch versions deprecate the older way
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allow
    for backend in _float32_backends():
        backend.fp32_precision = value


def _float32_backends() -> list[Any]:
    cudnn = torch.backends.cudnn
    return [cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul]  # type: ignore[attr-defined]  # no stubs


@contextmanager
def compute_settings(device: torch.device, precision: str) -> Iterator[None]:
    """Set the TF32 flags and the current CUDA device; restore the earlier ones on exit.

    May be nested. The settings are the process's: another thread sees them too. A generator must not yield
    inside; use `iterate_with_settings`.
    """
    on_device: AbstractContextManager[Any] = nullcontext()
    if device.type == "cuda":
        on_device = torch.cuda.device(device)  # streams, and calls that name no GPU, mean this one
    with on_device, _restored_tf32():
        set_tf32(precision)
        yield


@contextmanager
def _restored_tf32() -> Iterator[None]:
    """Restore torch's settings of float32 products on exit, by both ways of setting them."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    mkldnn = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # set_float32_matmul_precision sets it
    backends = [mkldnn, *_float32_backends()]
    newer = [backend.fp32_precision for backend in backends]
    older: list[Callable[[], Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in (cudnn, matmul):
            with suppress(RuntimeError):  # it cannot be read where it contradicts the newer settings
                older.append(partial(setattr, part, "allow_tf32", part.allow_tf32))
        with suppress(RuntimeError):
            older.append(partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()))
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for restore in older:
                restore()
        for backend, value in zip(backends, newer, strict=True):
            backend.fp32_precision = value


def iterate_with_settings(
    settings: Callable[[], AbstractContextManager[None]], items: Generator[Item, None, None]
) -> Generator[Item, None, None]:
    """Yield from a generator that runs under `settings`; the consumer of its items does not.

    Args:
        settings: A new context for each step, e.g. `partial(compute_settings, device, precision)`.
        items: The generator. It is closed under the settings when this one is closed.
    """
    try:
        while True:
            with settings():
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item
    finally:
        with settings():
            items.close()


def batch_size(wanted: int | Literal["auto"], device: torch.device, side: int) -> int:
    """Return the largest number of images of side x side pixels that are computed and saved together.

    `auto` targets about 2^15 pixels a batch on a CPU (at most 8 images) and 2^20 on a GPU (at most 256).
    """
    if wanted != "auto":
        return wanted
    on_cpu = device.type == "cpu"
    pixels, limit = (CPU_BATCH_PIXELS, CPU_MAX_BATCH) if on_cpu else (GPU_BATCH_PIXELS, GPU_MAX_BATCH)
    return min(limit, max(1, pixels // side**2))


def split_cores_among_ranks() -> None:
    """Give this rank of torchrun an equal part of the machine's cores; without torchrun change nothing.

    torchrun itself gives each of several ranks one thread. If instead two processes each use all the cores,
    they slow each other down, up to 75-fold, because waiting threads spin. OMP_NUM_THREADS above 1, or for
    a single rank, was set by the user and stays.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if ranks > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks))


def matrix_rate(
    device: torch.device,
    precision: str = "fp32",
    seconds: float = 0.2,
    now: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the FLOP/s of the fastest matrix product of random numbers that ran within `seconds`.

    The numbers are random because constant ones switch fewer transistors, which flatters a GPU.

    Args:
        device: The device that is measured.
        precision: fp32, tf32, bf16 or fp16.
        seconds: Time to measure for. At least one product is timed.
        now: Clock of each product, in seconds.
    """
    side = 8192 if device.type == "cuda" else 1024
    generator = torch.Generator(device).manual_seed(0)
    a = torch.randn(side, side, generator=generator, device=device)
    a = a.to(DTYPES[precision])
    end, best = time.monotonic() + seconds, float("inf")
    product = torch.empty_like(a)
    torch.mm(a, a, out=product)  # warms up
    while best == float("inf") or time.monotonic() < end:
        begin = now()
        torch.mm(a, a, out=product)
        product[0, 0].item()  # waits for it
        best = min(best, now() - begin)
    return 2 * side**3 / best
