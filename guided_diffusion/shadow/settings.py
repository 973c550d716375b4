"""The YAML group `relight`: how a shadow is lifted off a picture."""

from dataclasses import dataclass
from typing import Literal

from guided_diffusion.construct import NonNegative


@dataclass(frozen=True)
class RelightConfig:
    """prior: what may correct the light that the shadow's surroundings tell. dilate: how far a shadow reaches
    beyond its mask, as a share of the picture's short side; nothing farther out changes.
    """

    prior: Literal["none", "diffusion"] = "none"
    dilate: NonNegative = 0.012

    @property
    def evaluations(self) -> int:
        """Of the network, for each picture: what is planned."""
        return 0

    def reach(self, height: int, width: int) -> int:
        """`dilate` in pixels of a picture, at least 1."""
        return max(1, round(self.dilate * min(height, width)))
