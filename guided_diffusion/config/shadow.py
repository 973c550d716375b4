"""The YAML group `relight`: how a shadow is lifted off an image."""

from dataclasses import dataclass
from typing import Literal

from guided_diffusion.config.builder import NonNegative


@dataclass(frozen=True)
class RelightConfig:
    """fit: what tells the light: palette (pairs across the edge and the scene's colours), ring (a line
    through the rings beside the edge) or gain (one number per channel). prior: whether the diffusion model
    corrects that. refine: whether it takes out the noise that is lifted with the light; noise: standard
    deviation of the input's, in levels of 255, for that. paint_black: whether the sampler paints what is too
    dark to hold texture. look_twice: whether a shadow that is left within the mask, since two overlap, is
    lifted as well. dilate: how far a shadow may reach beyond its mask, as a share of the image's
    short side; nothing farther out changes.
    """

    fit: Literal["palette", "ring", "gain"] = "palette"
    prior: Literal["none", "diffusion"] = "none"
    refine: bool = False
    noise: NonNegative = 1.0
    paint_black: bool = False
    look_twice: bool = True
    dilate: NonNegative = 0.03

    @property
    def asks_prior(self) -> bool:
        """Whether lifting itself needs the network."""
        return self.prior != "none" or self.refine

    @property
    def uses_network(self) -> bool:
        return self.asks_prior or self.paint_black

    def reach(self, height: int, width: int) -> int:
        """`dilate` in pixels of an image, at least 1."""
        return max(1, round(self.dilate * min(height, width)))
