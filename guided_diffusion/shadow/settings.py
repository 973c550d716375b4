"""The YAML group `relight`: how a shadow is lifted off a picture."""

from dataclasses import dataclass
from typing import Literal

from guided_diffusion.construct import NonNegative

EVALUATIONS = 40  # of the diffusion prior's network


@dataclass(frozen=True)
class RelightConfig:
    """fit: what tells the light: palette (pairs across the edge and the scene's colours), ring (a line
    through the rings beside the edge) or gain (one number per channel). prior: whether the diffusion model
    corrects that. dilate: how far a shadow may reach beyond its mask, as a share of the picture's short
    side; nothing farther out changes.
    """

    fit: Literal["palette", "ring", "gain"] = "palette"
    prior: Literal["none", "diffusion"] = "none"
    dilate: NonNegative = 0.03

    @property
    def evaluations(self) -> int:
        """Of the network, for each picture: what is planned."""
        return 0 if self.prior == "none" else EVALUATIONS

    def reach(self, height: int, width: int) -> int:
        """`dilate` in pixels of a picture, at least 1."""
        return max(1, round(self.dilate * min(height, width)))
