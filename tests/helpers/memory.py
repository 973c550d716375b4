"""A network whose memory runs out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from guided_diffusion.unet import UNetModel


class Memory:
    """Replacement of the network's forward: fails for more images than `room`, records how many came."""

    def __init__(self, room: int, error: Exception) -> None:
        self.room, self.error, self.seen = room, error, list[int]()
        self.forward: Callable[..., Tensor] = UNetModel.forward

    def __call__(self, network: UNetModel, x: Tensor, t: Tensor) -> Tensor:
        if x.device.type == "meta":  # shapes alone are asked for
            return self.forward(network, x, t)
        self.seen.append(len(x))
        if len(x) > self.room:
            raise self.error
        return self.forward(network, x, t)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(UNetModel, "forward", lambda network, *args: self(network, *args))
