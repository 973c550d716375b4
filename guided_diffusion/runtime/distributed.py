"""Ranks and devices. One process without torchrun is rank 0 of 1, so one code path serves both."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable

import torch
import torch.distributed as dist

from guided_diffusion.errors import DeviceError, LaunchError


def check_launch() -> None:
    """Raises LaunchError if this process is called a rank, and not told where the others are."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if is_launched() and missing:
        raise LaunchError(
            f"RANK and WORLD_SIZE are set, {' and '.join(missing)} not; start with torchrun, or unset RANK"
        )


def is_launched() -> bool:
    """True under torchrun (its environment variables are set)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def signed(line: str) -> str:
    """What a rank says, with its number unless it is the leader."""
    return line if is_leader() else f"rank {os.environ['RANK']}: {line}"


def would_restart() -> bool:
    """True where torchrun is to start the ranks anew if one of them leaves with another code than 0."""
    return is_launched() and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"


def is_leader() -> bool:
    """True in the one process that writes and speaks; known before `setup` and after `close` too."""
    return not is_launched() or os.environ["RANK"] == "0"


def setup(device: torch.device) -> None:
    """Join the process group that torchrun announced (NCCL on CUDA, else Gloo); nothing without torchrun."""
    if not is_launched() or dist.is_initialized():
        return
    make_current(device)
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")


def close() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
        # What still refers to it in circles, as DistributedDataParallel does, keeps its threads alive. If
        # they let go of a tensor while the interpreter ends, they take the process down.
        gc.collect()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def share(total: int, ranks: int) -> int | None:
    """The most of `total` images that a rank is to take together, so that the quick ones can take more:
    half of what each would get. None, all it likes, for one alone."""
    return None if ranks == 1 else -(-total // (2 * ranks))


def find_device(name: str = "auto") -> torch.device:
    """auto: this rank's GPU where there is one, else the CPU. cuda: this rank's GPU. Else a torch device
    name: cpu, cuda:1.

    Raises DeviceError for a name torch does not know, or a GPU that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        own, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if own >= gpus > 0:
            raise DeviceError(f"more ranks than CUDA devices ({gpus}) here; use --nproc_per_node={gpus}")
        name = f"cuda:{own}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"device {name!r} is unknown; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name!r} is not there ({torch.cuda.device_count()} CUDA devices); use auto or cpu"
        )
    return device


def make_current(device: torch.device) -> None:
    """Let what names no GPU, such as a stream or what is asked of its kind, mean this one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def average(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each tensor by its mean over the ranks, in place."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()


def any_rank(flag: bool) -> bool:
    """True on every rank if `flag` is True on any of them. All ranks must ask."""
    if not dist.is_initialized():
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    told = torch.tensor([int(flag)], device=device)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told.item())


def gather(values: torch.Tensor) -> torch.Tensor:
    """Concatenate equally long 1-d tensors of all ranks, in rank order; the tensor itself on one rank."""
    if not dist.is_initialized():
        return values
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values)
    return torch.cat(parts)
