"""Divide a shadow out of an image, so that what lies beneath it stays as it is.

Only the shadow's surroundings are used: its bounding box and as much again on every side. Their light is
fitted at a working size of 256 x 256 pixels in area. Field and penumbra are then carried over to the image's
own size, where the distance to the mask's edge is measured anew.
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
from guided_diffusion.images.colour import to_linear, to_srgb
from guided_diffusion.images.masks import ShadowMask, bounding_box, dilate, edge_distance
from guided_diffusion.inpainting.windows import centre
from guided_diffusion.shadow.field import ShadowField
from guided_diffusion.shadow.fit import GAP, fit_field, observe
from guided_diffusion.shadow.light import local_mean, log_light
from guided_diffusion.shadow.matte import Edge, fit_edge
from guided_diffusion.shadow.prior_fit import NFE, fit_under_prior
from guided_diffusion.shadow.refine import count_passes, refine
from guided_diffusion.shadow.ring_fit import fit_ring

# All constants were chosen by experiment: docs/reports/shadow.md.
SIDE = 256  # pixels: the working size has this many squared
_REACH = 120.0  # pixels at the working size within which distances are measured
_NEAR = 12.0  # pixels: the distance to the edge is blurred up to half as far
_MIN_PIXELS = 12  # pixels of umbra, and of lit ground
_MIN_GAIN = 0.15  # log gain: 1 in 30 places without shadow seem to have more, every real shadow 0.4
_BLACK = 0.002  # linear light: 6 of 255 and less, where little texture is left
_THIN = 2  # pixels of the working size: half the width of marks that may be black in the light too
_MIN_BLACK = 0.2  # share of a shadow; less black is ignored
_FADE = 0.3  # share of the reach over which a wide penumbra fades out
_TAIL = 4  # widths of a penumbra, beyond which its matte is 0 or 1
_STRIP = 32  # rows of the image at a time


@dataclass(frozen=True)
class RelitImage:
    """An image without its shadow."""

    image: np.ndarray
    """The result, (H, W, 3), of the input's dtype."""
    matte: np.ndarray
    """Share of the direct light that the shadow blocks, float32 (H, W) in [0, 1]; 1 = full shadow."""
    transmission: np.ndarray
    """Share of linear light that the shadow lets through, float32 (H, W, 3) in (0, 1]; 1 = lit."""
    black: np.ndarray
    """Where the shadow is too dark to hold texture, bool (H, W); thin lines are left out."""
    note: str
    """A line for the user, or ''."""
    nfe: int
    """Network function evaluations."""

    def combine(self, second: RelitImage) -> RelitImage:
        """Add the removal of a second shadow, which started from this result."""
        return RelitImage(
            second.image,
            np.maximum(self.matte, second.matte),
            self.transmission * second.transmission,
            self.black | second.black,
            self.note,
            self.nfe + second.nfe,
        )

    def paste_into(self, image: np.ndarray, window: tuple[slice, slice]) -> RelitImage:
        """Return the result for a whole image (H, W, 3), of which this one is the window."""
        if self.image.shape == image.shape:
            return self
        whole = leave_unchanged(image.copy(), self.note)
        for name in ("image", "matte", "transmission", "black"):
            getattr(whole, name)[window] = getattr(self, name)
        return replace(whole, nfe=self.nfe)


@dataclass(frozen=True)
class WorkingView:
    """An image at the working size."""

    light: Tensor
    """Linear light, (3, H, W)."""
    distance: Tensor
    """Distance to the mask's edge, pixels, positive in the shadow, (H, W)."""


@dataclass(frozen=True)
class Prior:
    """A diffusion model that may correct the light and refine the pixels."""

    denoise: Denoise
    process: GaussianDiffusion
    side: int
    """Training size of the model, pixels."""
    multiple: int
    """Number of which the sides of any other image must be multiples, pixels."""
    generator: torch.Generator
    """Source of the noise, on the model's device."""

    def correct(self, view: WorkingView, field: ShadowField, edge: Edge) -> ShadowField:
        """Correct the field so that the relit image is likelier; the model sees all of it at its own size."""
        shape = view.distance.shape
        sides = (self.side * math.sqrt(n / m) for n, m in zip(shape, reversed(shape), strict=True))
        height, width = (max(1, round(side / self.multiple)) * self.multiple for side in sides)
        return fit_under_prior(
            view.light,
            edge.matte(view.distance),
            field,
            size=(height, width),
            denoise=self.denoise,
            process=self.process,
            generator=self.generator,
        )

    def refine(self, srgb: Tensor, transmission: np.ndarray, matte: Tensor, noise: float) -> Tensor:
        """Remove the shadow from sRGB values (3, H, W) without amplifying their noise."""
        return refine(
            srgb,
            torch.from_numpy(transmission).permute(2, 0, 1),
            matte,
            noise,
            side=self.side,
            denoise=self.denoise,
            process=self.process,
            generator=self.generator,
        )


def relight(
    image: np.ndarray,
    shadow: ShadowMask,
    settings: RelightConfig,
    prior: Prior | None,
    find_second: Callable[[np.ndarray, ShadowMask], ShadowMask] | None = None,
) -> RelitImage:
    """Remove the shadow from an image.

    What cannot be removed (no lit ground beside it, no shadow in the mask) is left as it was, with a note.

    Args:
        image: uint8 or uint16 (H, W, 3).
        shadow: bool (H, W), True = shadow.
        settings: the YAML group `relight`.
        prior: the diffusion model, where the settings need it.
        find_second: called with the first result and the shadow; returns what of the shadow is still dark,
            since two overlap, and that is removed as well. None: there is no second pass.
    """
    with torch.no_grad():
        relit = _relight_once(image, shadow, settings, prior)
        if find_second is not None and relit.matte.any():
            rest = find_second(relit.image, shadow)
            if rest.any():
                relit = relit.combine(_relight_once(relit.image, rest, settings, prior))
        if prior is not None and settings.refine and relit.matte.any():
            relit = _refine_pixels(relit, image, settings.noise, prior)
    return relit


def _relight_once(
    image: np.ndarray, shadow: ShadowMask, settings: RelightConfig, prior: Prior | None
) -> RelitImage:
    """Remove one shadow, from its surroundings alone; pixels are not refined."""
    reach = settings.reach(*shadow.shape)
    window = find_surroundings(shadow, reach)
    relit = _relight_window(image[window], ShadowMask(shadow[window]), reach, settings, prior)
    return relit.paste_into(image, window)


def nfe(settings: RelightConfig, process: GaussianDiffusion) -> int:
    """Network function evaluations for an image with one shadow."""
    correcting = NFE if settings.prior != "none" else 0
    return correcting + (count_passes(process) if settings.refine else 0)


def find_surroundings(shadow: ShadowMask, reach: int) -> tuple[slice, slice]:
    """Choose the rows and columns that are used for a shadow.

    They hold its bounding box with a margin on every side: the box's longer side, and at least the reach in
    pixels. They are no smaller than the working size where the image is larger.
    """
    top, bottom, left, right = bounding_box(shadow)
    margin = max(bottom - top, right - left, reach)
    window = []
    for start, stop, limit in ((top, bottom, shadow.shape[0]), (left, right, shadow.shape[1])):
        side = min(limit, max(SIDE, stop - start + 2 * margin))
        first = centre(start, stop, side, limit)
        window.append(slice(first, first + side))
    return window[0], window[1]


def _relight_window(
    image: np.ndarray, shadow: ShadowMask, reach: int, settings: RelightConfig, prior: Prior | None
) -> RelitImage:
    """Remove one shadow from an image all of which is used; reach in pixels."""
    srgb = _to_planes(image)
    view = make_working_view(srgb, shadow)
    if reason := reason_to_skip(view):
        return leave_unchanged(image, reason)
    field = find_field(view, settings)
    if field is None or _typical_gain(field, view) < _MIN_GAIN:
        return leave_unchanged(
            image, "the mask holds no shadow that stands out from its surroundings: left as it was"
        )
    edge = fit_edge(view.light, view.distance, field)
    if prior is not None and settings.prior != "none":
        field = prior.correct(view, field, edge)
    if is_grey(image):
        field = field.to_grey()
    matte = _full_matte(edge, shadow, reach)
    result, transmission = _divide(image, srgb, field, matte)
    cost = 0 if prior is None or settings.prior == "none" else NFE
    black = find_black(srgb, shadow)
    share = black.sum() / shadow.sum()
    note = f"{share:.0%} of the shadow is too dark to hold texture; relight.inpaint_black: true inpaints it"
    return RelitImage(result, matte.numpy(), transmission, black, note if black.any() else "", cost)


def make_working_view(srgb: Tensor, shadow: ShadowMask) -> WorkingView:
    """Bring sRGB values (3, H, W) in [0, 1] and their shadow mask to the working size."""
    scale = SIDE / math.sqrt(shadow.size)
    size = tuple(max(8, round(side * scale)) for side in shadow.shape)
    mask = torch.from_numpy(shadow).float()[None]
    small = F.interpolate(torch.cat([srgb, mask])[None], size=size, mode="bilinear", antialias=True)[0]
    return WorkingView(to_linear(small[:3]), signed_distance((small[3] >= 0.5).numpy(), _REACH))


def signed_distance(shadow: np.ndarray, reach: float) -> Tensor:
    """Distance (H, W) in pixels to the edge of a mask, positive inside, within +-reach.

    Near the edge it is blurred by a pixel: the stairs of a mask's outline are no part of the shadow's.
    """
    far = np.minimum(edge_distance(shadow, reach) - 0.5, reach)
    distance = torch.from_numpy(np.where(shadow, far, -far)).float()
    soft = local_mean(distance.clamp(-_NEAR, _NEAR), torch.ones_like(distance), 1.0)
    return torch.lerp(distance, soft, torch.exp(-((2 * distance / _NEAR) ** 2)))


def reason_to_skip(view: WorkingView) -> str:
    """Reason why the light cannot be fitted, or ''."""
    if int((view.distance > 0).sum()) < _MIN_PIXELS:
        return "the mask is too small to measure the shadow's light: left as it was"
    if int((view.distance < -GAP).sum()) < _MIN_PIXELS:
        return "the mask leaves no lit ground to compare with: left as it was"
    return ""


def find_field(view: WorkingView, settings: RelightConfig) -> ShadowField | None:
    """Fit the field as `settings.fit` says; None if there is too little to fit it to."""
    log = log_light(view.light)
    if settings.fit == "palette":
        height, width = view.distance.shape
        return fit_field(observe(log, view.distance), (height, width))
    return fit_ring(log, view.distance, slope=settings.fit == "ring")


def _typical_gain(field: ShadowField, view: WorkingView) -> float:
    inside = view.distance > 0
    return float(field.umbra_gain(log_light(view.light))[:, inside].mean(dim=0).median())


def leave_unchanged(image: np.ndarray, note: str) -> RelitImage:
    """Return an image (H, W, 3) as its own result, with the note that says why."""
    lit = np.ones(image.shape, np.float32)
    return RelitImage(image, 1 - lit[..., 0], lit, np.zeros(image.shape[:2], bool), note, 0)


def _full_matte(edge: Edge, shadow: ShadowMask, reach: int) -> Tensor:
    """Matte (H, W) of a mask of any size, from the edge at the working size; 0 beyond the reach."""
    edge = edge.resize(shadow.shape, math.sqrt(shadow.size) / SIDE)
    far = max(float(reach), float((edge.shift.abs() + _TAIL * edge.width).max()))
    distance = signed_distance(shadow, far)
    # A wide penumbra fades out before it is cut.
    matte = edge.matte(distance) * ((distance + reach) / (_FADE * reach)).clamp(0, 1)
    return matte * torch.from_numpy(dilate(shadow, reach))


def _divide(
    image: np.ndarray, srgb: Tensor, field: ShadowField, matte: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the shadow out: the image without it, and the transmission, float32 (H, W, 3).

    It goes strip by strip, to need little memory. Where the matte is 0 nothing changes.
    """
    field = field.resize(image.shape[:2])
    result, transmission = image.copy(), np.ones(image.shape, np.float32)
    for first in range(0, len(image), _STRIP):
        rows = slice(first, first + _STRIP)
        part = ShadowField(field.offset[:, rows], field.slope, field.pivot)
        light = to_linear(srgb[:, rows])
        share = part.transmission(light, matte[rows])
        _write_pixels(result[rows], to_srgb(light / share), matte[rows])
        transmission[rows] = share.permute(1, 2, 0).numpy()
    return result, transmission


def _write_pixels(image: np.ndarray, srgb: Tensor, matte: Tensor) -> None:
    """Write sRGB values (3, H, W) into an image (H, W, 3) where the matte (H, W) is not 0."""
    changed = (matte > 0).numpy()
    values = (srgb * np.iinfo(image.dtype).max).round().permute(1, 2, 0).numpy()
    image[changed] = values[changed]


def find_black(srgb: Tensor, shadow: ShadowMask) -> np.ndarray:
    """Find where a shadow is too dark to hold texture, bool (H, W), with a margin of a pixel.

    Joints and marks may be black in the light too: what is thinner than 5 pixels of the working size is left
    out. Nothing is returned if that is little of the shadow.

    Args:
        srgb: the image, (3, H, W) in [0, 1].
        shadow: bool (H, W), True = shadow.
    """
    dark = shadow & (to_linear(srgb.amax(dim=0)) < _BLACK).numpy()
    thin = max(_THIN, round(_THIN * math.sqrt(shadow.size) / SIDE))
    black = shadow & dilate(~dilate(~dark, thin), thin + 1)
    return black if black.sum() >= _MIN_BLACK * shadow.sum() else np.zeros_like(shadow)


def _refine_pixels(relit: RelitImage, image: np.ndarray, noise: float, prior: Prior) -> RelitImage:
    """Replace the pixels by refined ones, computed anew from the input image (H, W, 3)."""
    top, bottom, left, right = bounding_box(relit.matte != 0)
    near = slice(top, bottom), slice(left, right)
    matte, result = torch.from_numpy(relit.matte[near]), relit.image.copy()
    pixels = prior.refine(_to_planes(image[near]), relit.transmission[near], matte, noise)
    if is_grey(image[near]):
        pixels = pixels.mean(dim=0).expand_as(pixels)
    _write_pixels(result[near], pixels, matte)
    return replace(relit, image=result, nfe=relit.nfe + count_passes(prior.process))


def is_grey(image: np.ndarray) -> bool:
    """Check whether all channels of an image (H, W, 3) are equal."""
    return bool((image == image[..., :1]).all())


def _to_planes(image: np.ndarray) -> Tensor:
    """Convert an image (H, W, 3) to sRGB values (3, H, W) in [0, 1]."""
    return torch.from_numpy(image.astype(np.float32) / np.iinfo(image.dtype).max).permute(2, 0, 1)
