"""Relight: divide a shadow out of an image, so that what lies beneath it stays as it is.

Only the shadow's surroundings are looked at: its box and as much again on every side. Their light is fitted
at a working size of 256 x 256 pixels in area; field and penumbra are then carried over to the image's own
size, where the distance to the mask's edge is measured anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.config.shadow import RelightConfig
from guided_diffusion.denoiser import Denoise
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.images.masks import dilate, edge_distance
from guided_diffusion.inpainting.windows import hole_box, place
from guided_diffusion.shadow.field import ShadowField
from guided_diffusion.shadow.fit import GAP, fit_field, observe
from guided_diffusion.shadow.light import local_mean, log_light, to_linear, to_srgb
from guided_diffusion.shadow.matte import Edge, fit_edge
from guided_diffusion.shadow.prior_fit import NFE, fit_under_prior
from guided_diffusion.shadow.refine import passes, refine
from guided_diffusion.shadow.ring_fit import ring_field

SIDE = 256  # pixels: the working size has this many squared
_REACH = 120.0  # pixels at the working size within which distances are measured
_NEAR = 12.0  # pixels: the distance to the edge is blurred up to half as far
_FEWEST = 12  # pixels of umbra, and of lit ground
_WEAKEST = 0.15  # log gain: 1 in 30 places without shadow seem to have more, every real shadow 0.4
_BLACK = 0.002  # linear light: 6 of 255 and less, where little texture is left to lift
_THIN = 2  # pixels of the working size: half the width of what may be black of itself
_MUCH = 0.2  # share of a shadow
_STRIP = 32  # rows of the image at a time


@dataclass(frozen=True)
class Relit:
    """An image without its shadow.

    free: (H, W, 3) as deep as the input; matte: float32 (H, W) in [0, 1], 1 = full shadow; field: float32
    (H, W, 3) in (0, 1], the share of linear light that the shadow lets through, 1 = lit; black: bool (H, W),
    where the shadow holds no texture to lift, thin lines left out; note: '' or a line.
    """

    free: np.ndarray
    matte: np.ndarray
    field: np.ndarray
    black: np.ndarray
    note: str
    nfe: int

    def then(self, second: Relit) -> Relit:
        """With a second shadow lifted off this result."""
        return Relit(
            second.free,
            np.maximum(self.matte, second.matte),
            self.field * second.field,
            self.black | second.black,
            self.note,
            self.nfe + second.nfe,
        )

    def within(self, image: np.ndarray, window: tuple[slice, slice]) -> Relit:
        """The same of a whole image (H, W, 3), of which this is the window."""
        if self.free.shape == image.shape:
            return self
        whole = untouched(image.copy(), self.note)
        for name in ("free", "matte", "field", "black"):
            getattr(whole, name)[window] = getattr(self, name)
        return replace(whole, nfe=self.nfe)


@dataclass(frozen=True)
class View:
    """An image at the working size: linear light (3, H, W); distance (H, W) to the mask's edge in pixels,
    positive in the shadow."""

    light: Tensor
    distance: Tensor


@dataclass(frozen=True)
class Prior:
    """A diffusion model that may correct the light and refine the pixels.

    side, multiple: the model's training size, and of what the sides of any other image must be multiples;
    generator: of the draws, on the model's device.
    """

    denoise: Denoise
    process: GaussianDiffusion
    side: int
    multiple: int
    generator: torch.Generator

    def correct(self, view: View, field: ShadowField, edge: Edge) -> ShadowField:
        """The field under which the relit image is likelier; the model sees the whole of it at its size."""
        shape = view.distance.shape
        sides = (self.side * math.sqrt(n / m) for n, m in zip(shape, reversed(shape), strict=True))
        height, width = (max(1, round(side / self.multiple)) * self.multiple for side in sides)
        matte = edge.matte(view.distance)
        model = self.denoise, self.process, self.generator
        return fit_under_prior(view.light, matte, field, (height, width), *model)

    def refine(self, srgb: Tensor, through: np.ndarray, matte: Tensor, noise: float) -> Tensor:
        """The relit image (3, H, W) without the noise that was lifted with the light."""
        model = self.denoise, self.process, self.generator
        return refine(srgb, torch.from_numpy(through).permute(2, 0, 1), matte, noise, self.side, *model)


def relight(
    image: np.ndarray,
    shadow: np.ndarray,
    settings: RelightConfig,
    prior: Prior | None,
    find: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> Relit:
    """Lift the shadow, bool (H, W), True = shadow, off an image uint8 or uint16 (H, W, 3).

    prior: needed where the settings ask for it. find(image, shadow): what of the shadow, bool (H, W), is
    still dark in a relit image, since two overlap; it is lifted as well; None: not looked for. What cannot
    be lifted (no lit ground beside it, no shadow in the mask) is left as it was, with a note.
    """
    with torch.no_grad():
        found = _lift(image, shadow, settings, prior)
        if find is not None and found.matte.any():
            rest = find(found.free, shadow)
            found = found.then(_lift(found.free, rest, settings, prior)) if rest.any() else found
        if prior is not None and settings.refine and found.matte.any():
            found = _refined(found, image, settings.noise, prior)
    return found


def _lift(image: np.ndarray, shadow: np.ndarray, settings: RelightConfig, prior: Prior | None) -> Relit:
    """One shadow, from its surroundings alone; pixels are not refined."""
    reach = settings.reach(*shadow.shape)
    window = surroundings(shadow, reach)
    return _lift_near(image[window], shadow[window], reach, settings, prior).within(image, window)


def nfe(settings: RelightConfig, process: GaussianDiffusion) -> int:
    """Of the network, for each image with one shadow."""
    correcting = NFE if settings.prior != "none" else 0
    return correcting + (passes(process) if settings.refine else 0)


def surroundings(shadow: np.ndarray, reach: int) -> tuple[slice, slice]:
    """Rows and columns of a mask's box with its longer side, and no less than the reach, on every side; no
    smaller than the working size where the image is larger."""
    top, bottom, left, right = hole_box(~shadow)
    margin = max(bottom - top, right - left, reach)
    window = []
    for start, stop, limit in ((top, bottom, shadow.shape[0]), (left, right, shadow.shape[1])):
        side = min(limit, max(SIDE, stop - start + 2 * margin))
        first = place(start, stop, side, limit)
        window.append(slice(first, first + side))
    return window[0], window[1]


def _lift_near(
    image: np.ndarray, shadow: np.ndarray, reach: int, settings: RelightConfig, prior: Prior | None
) -> Relit:
    """As `_lift`, of an image all of which is looked at; reach in pixels."""
    srgb = _planes(image)
    view = working_view(srgb, shadow)
    if why := unusable(view):
        return untouched(image, why)
    field = find_field(view, settings)
    if field is None or _typical_gain(field, view) < _WEAKEST:
        return untouched(image, "the mask holds no shadow that its surroundings tell: left as it was")
    edge = fit_edge(view.light, view.distance, field)
    if prior is not None and settings.prior != "none":
        field = prior.correct(view, field, edge)
    if is_grey(image):
        field = field.grey()
    matte = _full_matte(edge, shadow, reach)
    free, through = _divide(image, srgb, field, matte)
    cost = 0 if prior is None or settings.prior == "none" else NFE
    black = too_dark(srgb, shadow)
    share = black.sum() / shadow.sum()
    note = f"{share:.0%} of the shadow is too dark to hold texture; relight.paint_black: true paints it"
    return Relit(free, matte.numpy(), through, black, note if black.any() else "", cost)


def working_view(srgb: Tensor, shadow: np.ndarray) -> View:
    """sRGB values (3, H, W) in [0, 1] and their shadow mask, bool (H, W), at the working size."""
    scale = SIDE / math.sqrt(shadow.size)
    size = tuple(max(8, round(side * scale)) for side in shadow.shape)
    mask = torch.from_numpy(shadow).float()[None]
    small = F.interpolate(torch.cat([srgb, mask])[None], size=size, mode="bilinear", antialias=True)[0]
    return View(to_linear(small[:3]), signed_distance((small[3] >= 0.5).numpy(), _REACH))


def signed_distance(shadow: np.ndarray, reach: float) -> Tensor:
    """Distance (H, W) in pixels to the edge of a mask, positive inside, within +-reach.

    Near the edge it is blurred by a pixel: the stairs of a mask's outline are no part of the shadow's.
    """
    far = np.minimum(edge_distance(shadow, reach) - 0.5, reach)
    distance = torch.from_numpy(np.where(shadow, far, -far)).float()
    soft = local_mean(distance.clamp(-_NEAR, _NEAR), torch.ones_like(distance), 1.0)
    return torch.lerp(distance, soft, torch.exp(-((2 * distance / _NEAR) ** 2)))


def unusable(view: View) -> str:
    """Why nothing can be told of the light, or ''."""
    if int((view.distance > 0).sum()) < _FEWEST:
        return "the mask is too small to tell the shadow's light: left as it was"
    if int((view.distance < -GAP).sum()) < _FEWEST:
        return "the mask leaves no lit ground to compare with: left as it was"
    return ""


def find_field(view: View, settings: RelightConfig) -> ShadowField | None:
    """The field as `settings.fit` says; None if it cannot be told."""
    log = log_light(view.light)
    if settings.fit == "palette":
        height, width = view.distance.shape
        return fit_field(observe(log, view.distance), (height, width))
    return ring_field(log, view.distance, slope=settings.fit == "ring")


def _typical_gain(field: ShadowField, view: View) -> float:
    inside = view.distance > 0
    return float(field.umbra_gain(log_light(view.light))[:, inside].mean(dim=0).median())


def untouched(image: np.ndarray, note: str) -> Relit:
    """The image as its own result."""
    lit = np.ones(image.shape, np.float32)
    return Relit(image, 1 - lit[..., 0], lit, np.zeros(image.shape[:2], bool), note, 0)


def _full_matte(edge: Edge, shadow: np.ndarray, reach: int) -> Tensor:
    """The matte (H, W) of a mask of any size, from the edge at the working size; 0 beyond the reach."""
    edge = edge.resized(shadow.shape, math.sqrt(shadow.size) / SIDE)
    far = max(float(reach), float((edge.shift.abs() + 4 * edge.width).max()))
    distance = signed_distance(shadow, far)
    # A wide penumbra fades out before it is cut.
    matte = edge.matte(distance) * ((distance + reach) / (0.3 * reach)).clamp(0, 1)
    return matte * torch.from_numpy(dilate(shadow, reach))


def _divide(
    image: np.ndarray, srgb: Tensor, field: ShadowField, matte: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """The image without its shadow and the transmission, float32 (H, W, 3); strip by strip, to need little
    memory. Where the matte is 0 nothing changes."""
    field = field.resized(image.shape[:2])
    free, through = image.copy(), np.ones(image.shape, np.float32)
    for first in range(0, len(image), _STRIP):
        rows = slice(first, first + _STRIP)
        part = ShadowField(field.offset[:, rows], field.slope, field.pivot)
        light = to_linear(srgb[:, rows])
        share = part.transmission(light, matte[rows])
        _write(free[rows], to_srgb(light / share), matte[rows])
        through[rows] = share.permute(1, 2, 0).numpy()
    return free, through


def _write(image: np.ndarray, srgb: Tensor, matte: Tensor) -> None:
    """Write sRGB values (3, H, W) into an image (H, W, 3) where the matte (H, W) is not 0."""
    changed = (matte > 0).numpy()
    values = (srgb * np.iinfo(image.dtype).max).round().permute(1, 2, 0).numpy()
    image[changed] = values[changed]


def too_dark(srgb: Tensor, shadow: np.ndarray) -> np.ndarray:
    """Where a shadow, bool (H, W), of an image (3, H, W) holds no texture, bool (H, W), a pixel more all
    around; nowhere if that is little of it. Joints and marks may be black in the light too: what is thinner
    than 5 pixels of the working size is left out."""
    dark = shadow & (to_linear(srgb.amax(dim=0)) < _BLACK).numpy()
    thin = max(_THIN, round(_THIN * math.sqrt(shadow.size) / SIDE))
    black = shadow & dilate(~dilate(~dark, thin), thin + 1)
    return black if black.sum() >= _MUCH * shadow.sum() else np.zeros_like(shadow)


def _refined(found: Relit, image: np.ndarray, noise: float, prior: Prior) -> Relit:
    """The same without the noise that was lifted off the image (H, W, 3) with the light."""
    top, bottom, left, right = hole_box(found.matte == 0)
    near = slice(top, bottom), slice(left, right)
    matte, free = torch.from_numpy(found.matte[near]), found.free.copy()
    pixels = prior.refine(_planes(image[near]), found.field[near], matte, noise)
    _write(free[near], pixels.mean(dim=0).expand_as(pixels) if is_grey(image[near]) else pixels, matte)
    return replace(found, free=free, nfe=found.nfe + passes(prior.process))


def is_grey(image: np.ndarray) -> bool:
    """Whether all channels of an image (H, W, 3) are one."""
    return bool((image == image[..., :1]).all())


def _planes(image: np.ndarray) -> Tensor:
    """sRGB values (3, H, W) in [0, 1]."""
    return torch.from_numpy(image.astype(np.float32) / np.iinfo(image.dtype).max).permute(2, 0, 1)
