"""YAML group `relight`: how `task: remove_shadow` removes a shadow from an image."""

from dataclasses import dataclass
from typing import Literal

from guided_diffusion.config.builder import NonNegative


@dataclass(frozen=True)
class RelightConfig:
    """Settings of shadow removal. They affect the output `shadow_free`."""

    fit: Literal["palette", "ring", "gain"] = "palette"
    """How the light in the shadow is estimated. `palette`: from pixel pairs across the shadow edge and the
    colours of the lit part of the image; `ring`: a line fitted to the rings on both sides of the edge;
    `gain`: a constant gain per channel."""
    prior: Literal["none", "diffusion"] = "none"
    """Whether the diffusion model corrects the estimated light (40 network function evaluations)."""
    refine: bool = False
    """Whether the diffusion model removes the noise that is amplified together with the light (10 more
    network function evaluations for each crop window)."""
    noise: NonNegative = 1.0
    """Standard deviation of the noise in the input, in levels of 255. Used by `refine`."""
    inpaint_black: bool = False
    """Whether the sampler inpaints the parts of a shadow that are too dark to hold texture."""
    second_pass: bool = True
    """Whether a second, overlapping shadow inside the mask is detected and removed too."""
    dilate: NonNegative = 0.03
    """How far a shadow may reach beyond its mask, as a fraction of the image's short side. Pixels farther
    away do not change."""

    @property
    def asks_prior(self) -> bool:
        """Whether shadow removal itself needs the network."""
        return self.prior != "none" or self.refine

    @property
    def uses_network(self) -> bool:
        """Whether `shadow_free` needs the network, for inpainting what is black or for anything else."""
        return self.asks_prior or self.inpaint_black

    def reach(self, height: int, width: int) -> int:
        """`dilate` in pixels of an image of this size, at least 1."""
        return max(1, round(self.dilate * min(height, width)))
