"""Relighter: lifts the shadows off images, one at a time; finds them first where no mask marks them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from guided_diffusion.config.shadow import RelightConfig
from guided_diffusion.denoiser import Denoise, Prediction
from guided_diffusion.errors import ImageError
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.images.formats import eight_bits
from guided_diffusion.images.masks import dilate
from guided_diffusion.inpainting.views import image_key
from guided_diffusion.output.results import Lifted, Progress
from guided_diffusion.runtime import hardware
from guided_diffusion.runtime.seeds import Draws
from guided_diffusion.shadow.detect import find_shadow
from guided_diffusion.shadow.relight import Prior, Relit, is_grey, nfe, relight, untouched

NONE_FOUND = "no shadow found: the image was left as it was"
NONE_MARKED = "the mask marks no shadow: the image was left as it was"


@dataclass(frozen=True)
class Shaded:
    """An image and its shadow.

    key: of its Lifted; image: uint8 or uint16 (H, W, 3); shadow: bool (H, W), True = shadow; keep: bool
    (H, W), True = beyond the shadow's reach, where no byte changes; note: '', or why nothing is to be done.
    """

    name: str
    draws: Draws
    key: str
    image: np.ndarray
    shadow: np.ndarray
    keep: np.ndarray
    note: str


@dataclass(frozen=True)
class Relighter:
    """Lifts shadows as `settings` say.

    denoiser: an image's draws -> what denoises it, on `device`; it is asked only if the settings say so.
    side, multiple: the model's training size, and of what any other size must be a multiple.
    """

    settings: RelightConfig
    process: GaussianDiffusion
    denoiser: Callable[[Sequence[Draws]], Denoise]
    device: torch.device
    side: int
    multiple: int

    @property
    def nfe(self) -> int:
        """Of the network, for each image."""
        return nfe(self.settings, self.process)

    def shade(
        self, fingerprint: str, name: str, image: np.ndarray, shadow: np.ndarray | None, draws: Draws
    ) -> Shaded:
        """An image uint8 or uint16 (H, W, 3) with its shadow, bool (H, W), True = shadow; None: it is found.

        fingerprint: of settings and, with a prior, weights.
        """
        note = NONE_MARKED
        if shadow is None:
            shadow, note = find(image), NONE_FOUND
        keep = ~dilate(shadow, self.settings.reach(*shadow.shape))
        key = image_key(fingerprint, name, image, shadow)
        return Shaded(name, draws, key, image, shadow, keep, "" if shadow.any() else note)

    def lift(self, shaded: Shaded) -> Iterator[Progress | Lifted]:
        """The image without its shadow comes last. Raises ImageError if that cannot be done."""
        image, begin = shaded.image, time.monotonic()
        if shaded.note:
            yield _lifted(shaded.key, untouched(image, shaded.note), begin)
            return
        prior = self.prior(shaded.draws) if self.settings.asks_prior else None
        try:
            with threads(1):
                again = find if self.settings.look_twice else None
                relit = relight(image, shaded.shadow, self.settings, prior, again)
        except (RuntimeError, MemoryError) as error:
            if not hardware.is_out_of_memory(error):
                raise
            raise ImageError(
                f"out of memory on {self.device} with an image of {image.shape[1]}x{image.shape[0]}; "
                "shrink it, or set relight.prior: none and relight.refine: false"
            ) from None
        if relit.nfe:
            yield Progress((shaded.name,), relit.nfe, relit.nfe)
        yield _lifted(shaded.key, relit, begin)

    def prior(self, draws: Draws) -> Prior:
        """The diffusion model for one image; its network has all of torch's threads."""
        denoise, all_threads = self.denoiser([draws]), torch.get_num_threads()

        def evaluate(x: Tensor, t: int) -> Prediction:
            with threads(all_threads):
                return denoise(x, t)

        own = draws.generator("relight", self.device)
        return Prior(evaluate, self.process, self.side, self.multiple, own)


def with_black(lifted: Lifted, filled: np.ndarray) -> Lifted:
    """What is black of a result comes from the image `filled`, uint8 (H, W, 3); grey stays grey."""
    free, black = lifted.free, lifted.black
    assert free is not None and black is not None
    values = filled.mean(axis=2, keepdims=True) if is_grey(free) else filled
    values = np.rint(values * (np.iinfo(free.dtype).max / 255)).astype(free.dtype)
    note = f"{black.sum():,} pixels of the shadow were too dark to hold texture and were painted"
    return replace(lifted, free=np.where(black[..., None], values, free), note=note)


def find(image: np.ndarray, within: np.ndarray | None = None) -> np.ndarray:
    """The shadows of an image uint8 or uint16 (H, W, 3), bool (H, W); within: only those left there."""
    return find_shadow(eight_bits(image), within)


def _lifted(key: str, relit: Relit, begin: float) -> Lifted:
    seconds = time.monotonic() - begin
    shares = relit.matte, relit.field, relit.black
    return Lifted(key, relit.free, *shares, relit.nfe, seconds, relit.note)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Torch on so many threads. Planes as small as relighting's gain little from two, and lose a hundredfold
    where another program wants a core, since waiting threads spin; on one, sums are the same everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
