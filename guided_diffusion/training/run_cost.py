"""Cost of a training run: images, seconds, and the share of the device's arithmetic that was used."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from guided_diffusion.runtime.device import matrix_rate

CostRow: TypeAlias = "dict[str, str | int | float]"
"""Cost of one run of the command: an entry of `slices` in cost.json and in the state."""

OLD_NAMES = {"pictures": "images", "pictures_per_second": "images_per_second"}
"""Names in files of earlier versions -> names now; loss.csv had them too."""

_RATE_SECONDS = 2.0  # time to find the device's best matrix product in


class RunCost:
    """Cost of one run of the command, counted from its first step. Construct it just before that step.

    Args:
        earlier: rows of the runs before.
        first: steps done when this run begins.
        images: images per step, over all ranks.
        flops: floating-point operations per step, of this rank.
        precision: fp32 | bf16.
    """

    def __init__(
        self,
        earlier: Sequence[CostRow],
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

    def rows(self, step: int) -> list[CostRow]:
        """One row per run of the command; the last is this run's, which has reached `step`.

        `seconds` is wall time. It includes saves and sample grids, but not the measurement of
        `matrix_flops_per_second`. `share` is flops_per_second / matrix_flops_per_second.
        """
        seconds, steps = time.monotonic() - self._begin, step - self.first
        flops_per_second = self.flops * steps / seconds
        row: CostRow = {
            "device": device_name(self.device),
            "precision": self.precision,
            "first_step": self.first,
            "last_step": step,
            "images": steps * self.images,
            "seconds": seconds,
            "images_per_second": steps * self.images / seconds,
            "flops_per_step": self.flops,
            "flops_per_second": flops_per_second,
            "matrix_flops_per_second": self.matrix_rate,
            "share": flops_per_second / self.matrix_rate,
        }
        return [*self.earlier, row]


def current_row(row: Mapping[str, str | int | float]) -> CostRow:
    """The row with the names of today, whichever version wrote it."""
    return {OLD_NAMES.get(name, name): value for name, value in row.items()}


def summarize(rows: Sequence[CostRow]) -> dict[str, object]:
    """Content of cost.json: images and seconds in all, and the rows as `slices`."""
    totals = {key: sum(float(row[key]) for row in rows) for key in ("images", "seconds")}
    return {"images": int(totals["images"]), "seconds": totals["seconds"], "slices": list(rows)}


def count_flops(network: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Floating-point operations of one forward and backward pass; on the meta device, so nothing is computed.

    A real step is not counted, since the counter changes how operations round.
    """
    with FlopCounterMode(display=False) as counter:
        network(*inputs).sum().backward()
    return counter.get_total_flops()


def device_name(device: torch.device) -> str:
    """Name of the GPU; for a CPU its architecture and the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
