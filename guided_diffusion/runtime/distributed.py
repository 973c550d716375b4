"""Ranks and devices. One process without torchrun is rank 0 of 1, so the same code serves both."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable

import torch
import torch.distributed as dist

from guided_diffusion.errors import DeviceError, LaunchError


def check_launch() -> None:
    """Raise LaunchError if the environment names a rank but not the address of the others."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if is_launched() and missing:
        raise LaunchError(
            f"RANK and WORLD_SIZE are set, {' and '.join(missing)} not; start with torchrun, or unset RANK"
        )


def is_launched() -> bool:
    """Return whether torchrun started this process (its environment variables are set)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def with_rank_prefix(line: str) -> str:
    """Prefix a line with the number of this rank, unless it is the leader."""
    return line if is_leader() else f"rank {os.environ['RANK']}: {line}"


def would_restart() -> bool:
    """Return whether torchrun restarts the ranks if one of them exits with another code than 0."""
    return is_launched() and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"


def is_leader() -> bool:
    """Return whether this rank writes shared files and messages; works before `setup` and after `close`."""
    return not is_launched() or os.environ["RANK"] == "0"


def setup(device: torch.device) -> None:
    """Join torchrun's process group (NCCL on CUDA, else Gloo); do nothing without torchrun."""
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
        # Reference cycles, such as those of DistributedDataParallel, keep the group's threads alive. A thread
        # that frees a tensor while the interpreter shuts down crashes the process.
        gc.collect()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def max_claim_size(total: int, ranks: int) -> int | None:
    """Return how many of `total` images a rank may claim together; None, no limit, for a single rank.

    It is half of an equal part, so that faster ranks can claim more.
    """
    return None if ranks == 1 else -(-total // (2 * ranks))


def find_device(name: str = "auto") -> torch.device:
    """Return the device of a name.

    Args:
        name: auto (this rank's GPU if there is one, else the CPU), cuda (this rank's GPU), cpu, or cuda:N.

    Raises:
        DeviceError: torch does not know the name, or there is no such GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        index, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if index >= gpus > 0:
            raise DeviceError(f"more ranks than CUDA devices ({gpus}) here; use --nproc_per_node={gpus}")
        name = f"cuda:{index}"
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
    """Make a GPU the current one for the rest of the process; do nothing for a CPU."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def average(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each tensor by its mean over the ranks, in place."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()


def any_rank(flag: bool) -> bool:
    """Return True on every rank if `flag` is True on any of them. All ranks must call it."""
    if not dist.is_initialized():
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    result = torch.tensor([int(flag)], device=device)
    dist.all_reduce(result, dist.ReduceOp.MAX)
    return bool(result.item())


def gather(values: torch.Tensor) -> torch.Tensor:
    """Concatenate equally long 1-d tensors of all ranks in rank order; a single rank gets its tensor back."""
    if not dist.is_initialized():
        return values
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values)
    return torch.cat(parts)
