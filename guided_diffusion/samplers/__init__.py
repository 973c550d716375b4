"""Samplers: one file, one frozen dataclass, one paper each. `SAMPLERS`: the YAML's `method` -> class."""

from guided_diffusion.samplers.base import Noise, Problem, Sampler, Step, walk
from guided_diffusion.samplers.ddim import DDIM
from guided_diffusion.samplers.ddnm import DDNM
from guided_diffusion.samplers.ddpm import DDPM
from guided_diffusion.samplers.ilvr import ILVR
from guided_diffusion.samplers.intermediate import Intermediate
from guided_diffusion.samplers.refine import Refine
from guided_diffusion.samplers.repaint import RePaint
from guided_diffusion.samplers.td_paint import TDPaint

SAMPLERS: dict[str, type] = {
    "repaint": RePaint,
    "ddpm": DDPM,
    "ddim": DDIM,
    "ddnm": DDNM,
    "intermediate": Intermediate,
    "ilvr": ILVR,
    "td_paint": TDPaint,
}

__all__ = [
    "DDIM",
    "DDNM",
    "DDPM",
    "ILVR",
    "SAMPLERS",
    "Intermediate",
    "Noise",
    "Problem",
    "RePaint",
    "Refine",
    "Sampler",
    "Step",
    "TDPaint",
    "walk",
]
