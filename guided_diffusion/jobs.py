"""Jobs: pictures cut to what the model sees of them; the key and the random draws of each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from guided_diffusion import windows
from guided_diffusion.datasets import Pair
from guided_diffusion.images import PictureError, read_deep, read_picture
from guided_diffusion.masks import read_mask
from guided_diffusion.results import Lifted, Result

LONGEST_VIEW = 16  # model sizes: a view longer than this would take all memory


@dataclass(frozen=True)
class Job:
    """A picture that is ready to be sampled: what the model sees of it, and what it goes back into."""

    name: str
    key: str
    gt: np.ndarray | None  # uint8 (H, W, 3), the input at its own size
    keep: np.ndarray | None  # bool (H, W), True = known; None without a mask
    window: windows.Window
    seen: np.ndarray  # uint8 (rows, cols, 3), the input's window at model size
    seen_keep: np.ndarray  # bool (rows, cols)
    lifted: Lifted | None = None  # for the result: made already, without sampling

    @property
    def unfilled(self) -> Result:
        """The result as long as nothing is sampled."""
        return Result(self.name, self.key, gt=self.gt, keep=self.keep, lifted=self.lifted)


def read(
    pair: Pair, mask_is: str = "keep", deep: bool = False
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """A pair's picture uint8 (H, W, 3) and keep-mask bool (H, W), True = known; None for what it lacks.

    mask_is: what 255 stands for in the mask's file, keep or shadow; deep: a 16-bit picture comes as uint16.
    Raises PictureError if one of them cannot be read, or their sizes differ.
    """
    reader = read_deep if deep else read_picture
    gt = None if pair.gt is None else reader(pair.gt)
    keep = None if pair.mask is None else read_mask(pair.mask) != (mask_is == "shadow")
    if gt is not None and keep is not None and gt.shape[:2] != keep.shape:
        raise PictureError(
            f"{pair.gt} is {gt.shape[1]}x{gt.shape[0]} and its mask {pair.mask} is "
            f"{keep.shape[1]}x{keep.shape[0]}; make them the same size"
        )
    return gt, keep


def prepare(
    fingerprint: str, name: str, gt: np.ndarray | None, keep: np.ndarray | None, size: int, multiple: int
) -> Job:
    """The Job of a picture uint8 (H, W, 3) and its keep-mask bool (H, W); both None to generate.

    fingerprint: of settings and weights; size: the model's training size in pixels, multiple: of which any
    other size that it sees must be one. Raises PictureError for a hole that no memory would hold.
    """
    whole = (size, size) if gt is None else gt.shape[:2]
    hole = np.zeros(whole, dtype=bool) if keep is None else keep
    window = windows.choose_window(hole, size, multiple)
    if max(window.rows, window.cols) > LONGEST_VIEW * size:
        raise PictureError(
            f"the hole in this {whole[1]}x{whole[0]} picture is so long and thin that the model would "
            f"see {window.cols}x{window.rows} pixels; fill it in shorter pieces"
        )
    picture = np.zeros((*whole, 3), dtype=np.uint8) if gt is None else gt
    seen, seen_keep = windows.cut(picture, hole, window)
    return Job(name, picture_key(fingerprint, name, gt, keep), gt, keep, window, seen, seen_keep)


def picture_key(fingerprint: str, name: str, *parts: np.ndarray | None) -> str:
    """SHA-256 (hex) of all that decides one result: settings and weights, its name, the input's parts."""
    key = _sha256(f"{fingerprint} {name}")
    for part in parts:
        key.update(b"-" if part is None else repr(part.shape).encode() + part.tobytes())
    return str(key.hexdigest())


def generator(seed: int, purpose: str, name: str, device: torch.device) -> torch.Generator:
    """Of the draws for one purpose and one picture: depends on (seed, purpose, name) alone."""
    told = _sha256(f"{seed}/{purpose}/{name}").digest()
    return torch.Generator(device).manual_seed(int.from_bytes(told[:8], "little") >> 1)


def _sha256(text: str) -> Any:
    """hashlib's object, fed with the text, which may hold a file name that is not valid UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape"))
