"""What a training run cost: images, seconds, and how much of the device's arithmetic was put to use."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from guided_diffusion.build import matrix_rate

Row: TypeAlias = "dict[str, str | int | float]"

_RATE_SECONDS = 2.0


class Slice:
    """The figures of one run of the command, from its first step on; made just before it.

    earlier: rows of the slices before. first: steps done when this one begins. images: per step, over all
    ranks. flops: per step, of this rank. precision: fp32 | bf16.
    """

    def __init__(
        self,
        earlier: Sequence[Row],
        first: int,
        images: int,
        flops: int,
        device: torch.device,
        precision: str,
    ) -> None:
        self.earlier, self.first, self.images, self.flops = list(earlier), first, images, flops
        self.device, self.precision = device, precision
        self.matrix_rate = matrix_rate(device, precision, _RATE_SECONDS)
        self._begin = time.monotonic()

    def rows(self, step: int) -> list[Row]:
        """One row per slice, this one, which stands at `step`, as the last.

        seconds: by the clock, what is not training (saves, sample grids) included, the measurement of
        matrix_flops_per_second not. share: of it, flops_per_second.
        """
        seconds, steps = time.monotonic() - self._begin, step - self.first
        flops_per_second = self.flops * steps / seconds
        row: Row = {
            "device": device_name(self.device),
            "precision": self.precision,
            "first_step": self.first,
            "last_step": step,
            "images": steps * self.images,
            "seconds": seconds,
            "pictures_per_second": steps * self.images / seconds,
            "flops_per_step": self.flops,
            "flops_per_second": flops_per_second,
            "matrix_flops_per_second": self.matrix_rate,
            "share": flops_per_second / self.matrix_rate,
        }
        return [*self.earlier, row]


def summary(rows: Sequence[Row]) -> dict[str, object]:
    """Images and seconds of all slices together, and the slices."""
    totals = {key: sum(float(row[key]) for row in rows) for key in ("images", "seconds")}
    return {"images": int(totals["images"]), "seconds": totals["seconds"], "slices": list(rows)}


def count_flops(network: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Floating-point operations of one pass forward and backward; all on the meta device, so nothing is done.

    A step itself is not counted, since the counter changes how operations round.
    """
    with FlopCounterMode(display=False) as counter:
        network(*inputs).sum().backward()
    return counter.get_total_flops()


def device_name(device: torch.device) -> str:
    """The GPU's name; of a CPU its architecture and the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
