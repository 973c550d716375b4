"""ShadowRemover: removes the shadows of one image at a time; finds them first where no mask marks them."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
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
from guided_diffusion.images.masks import KeepMask, ShadowMask, keep_beyond
from guided_diffusion.output.keys import image_key
from guided_diffusion.output.results import Output, Progress
from guided_diffusion.runtime import memory
from guided_diffusion.runtime.seeds import ImageSeed
from guided_diffusion.shadow.detect import find_shadow
from guided_diffusion.shadow.relight import Prior, is_grey, leave_unchanged, nfe, relight

NONE_FOUND = "no shadow found: the image was left as it was"
NONE_MARKED = "the mask marks no shadow: the image was left as it was"


@dataclass(frozen=True)
class ShadowInput:
    """An image and its shadow."""

    name: str
    seed: ImageSeed
    key: str
    """Fingerprint of the shadow-free output."""
    image: np.ndarray
    """uint8 or uint16 (H, W, 3)."""
    shadow: ShadowMask
    keep: KeepMask
    """True = beyond the shadow's reach, where no byte changes."""
    note: str
    """Why there is nothing to do, or ''."""


@dataclass(frozen=True)
class ShadowRemover:
    """Removes shadows as the settings say."""

    settings: RelightConfig
    process: GaussianDiffusion
    denoiser: Callable[[Sequence[ImageSeed]], Denoise]
    """An image -> its denoiser, on `device`; called only if the settings need the diffusion model."""
    device: torch.device
    size: int
    """Side of the model's images, in pixels."""
    multiple: int
    """Sides of other images that the model sees are multiples of this."""

    @property
    def nfe(self) -> int:
        """Network function evaluations for an image with one shadow."""
        return nfe(self.settings, self.process)

    def prepare(
        self, fingerprint: str, name: str, image: np.ndarray, shadow: ShadowMask | None, seed: ImageSeed
    ) -> ShadowInput:
        """Find the reach of a shadow, bool (H, W), True = shadow; None: find the shadow as well.

        image: uint8 or uint16 (H, W, 3); fingerprint: of settings and, with a prior, weights.
        """
        note = NONE_MARKED
        if shadow is None:
            shadow, note = find(image), NONE_FOUND
        keep = keep_beyond(shadow, self.settings.reach(*shadow.shape))
        key = image_key(fingerprint, name, image, shadow)
        return ShadowInput(name, seed, key, image, shadow, keep, "" if shadow.any() else note)

    def remove(self, item: ShadowInput) -> Generator[Progress, None, Output]:
        """Remove the shadow; returns the shadow-free output with `matte`, `field` and `black`.

        Raises ImageError if that cannot be done.
        """
        image, begin = item.image, time.monotonic()
        if item.note:
            relit = leave_unchanged(image, item.note)
        else:
            prior = self.prior(item.seed) if self.settings.asks_prior else None
            try:
                with threads(1):
                    second = find if self.settings.second_pass else None
                    relit = relight(image, item.shadow, self.settings, prior, second)
            except (RuntimeError, MemoryError) as error:
                if not memory.is_out_of_memory(error):
                    raise
                raise ImageError(
                    f"out of memory on {self.device} with an image of {image.shape[1]}x{image.shape[0]}; "
                    "shrink it, or set relight.prior: none and relight.refine: false"
                ) from None
            if relit.nfe:
                yield Progress((item.name,), relit.nfe, relit.nfe)
        extras = {"matte": relit.matte, "field": relit.transmission, "black": relit.black}
        return Output(item.key, relit.image, relit.nfe, time.monotonic() - begin, relit.note, extras)

    def prior(self, seed: ImageSeed) -> Prior:
        """Assemble the diffusion prior for one image; its network has all of torch's threads."""
        denoise, all_threads = self.denoiser([seed]), torch.get_num_threads()

        def evaluate(x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
            with threads(all_threads):
                return denoise(x, t, clean)

        generator = seed.generator("relight", self.device)
        return Prior(evaluate, self.process, self.size, self.multiple, generator)


def with_black_inpainted(output: Output, inpainted: Output) -> Output:
    """Replace the black pixels of a shadow-free output by inpainted ones; grey stays grey."""
    free, black = output.image, output.extras["black"]
    assert free is not None and inpainted.image is not None
    values = inpainted.image.mean(axis=2, keepdims=True) if is_grey(free) else inpainted.image
    values = np.rint(values * (np.iinfo(free.dtype).max / 255)).astype(free.dtype)
    return replace(
        output,
        image=np.where(black[..., None], values, free),
        nfe=output.nfe + inpainted.nfe,
        note=f"{black.sum():,} pixels of the shadow were too dark to hold texture and were inpainted",
    )


def find(image: np.ndarray, region: ShadowMask | None = None) -> ShadowMask:
    """Find the shadows of an image (H, W, 3), 8 or 16 bits: bool (H, W); region: only what is left there."""
    return find_shadow(eight_bits(image), region)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Run torch on so many threads.

    Arrays as small as those of relighting gain little from a second thread, and lose a hundredfold where
    another program wants a core, since waiting threads spin. On one thread, sums are the same everywhere.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
