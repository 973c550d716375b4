"""Windows over a larger picture: they agree with the whole where they must, and leave no seams."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from guided_diffusion.denoiser import Prediction
from guided_diffusion.tiles import Tiled


class Pointwise:
    """A denoiser that looks at one pixel at a time; remembers the shapes it saw."""

    def __init__(self) -> None:
        self.shapes = list[tuple[int, ...]]()

    def __call__(self, x: Tensor, t: int) -> Prediction:
        self.shapes.append(tuple(x.shape))
        return Prediction(x.sin(), x + t, -x.abs())


class Mean:
    """A denoiser whose answer is its window's mean: neighbouring windows disagree."""

    def __call__(self, x: Tensor, t: int) -> Prediction:
        flat = x.mean(dim=(2, 3), keepdim=True).expand_as(x)
        return Prediction(flat, flat, flat)


def picture(height: int, width: int, count: int = 1) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width", "stride"), [(8, 8, 8), (21, 8, 5), (16, 30, 8), (19, 23, 1)])
def test_windows_of_a_pointwise_denoiser_make_up_the_whole(height: int, width: int, stride: int) -> None:
    x = picture(height, width, 2)
    whole, tiled = Pointwise()(x, 7), Tiled(Pointwise(), 8, stride)(x, 7)
    for name in ("x0", "eps", "log_variance"):
        assert torch.allclose(getattr(tiled, name), getattr(whole, name), atol=1e-5)
    assert tiled.score is None


def test_each_window_is_seen_once_in_batches() -> None:
    denoise = Pointwise()
    tiled = Tiled(denoise, 8, 4)
    tiled(picture(32, 24, 3), 0)
    corners = tiled.corners(32, 24)
    assert len(corners) == len(set(corners)) == 7 * 5
    assert sum(shape[0] for shape in denoise.shapes) == 3 * len(corners)
    assert all(shape[0] <= 16 and shape[1:] == (3, 8, 8) for shape in denoise.shapes)


def test_every_pixel_is_covered_and_no_window_leaves_the_picture() -> None:
    for height, width, stride in ((8, 9, 8), (31, 17, 7), (40, 8, 3)):
        seen = torch.zeros(height, width, dtype=torch.bool)
        for i, j in Tiled(Mean(), 8, stride).corners(height, width):
            assert 0 <= i <= height - 8 and 0 <= j <= width - 8
            seen[i : i + 8, j : j + 8] = True
        assert seen.all()


def test_disagreeing_windows_are_blended_without_a_seam() -> None:
    x = torch.zeros(1, 3, 16, 48)
    x[..., 24:] = 1
    row = Tiled(Mean(), 16, 8)(x, 0).x0[0, 0, 8]
    assert row[0] == 0 and row[-1] == 1
    assert (
        row.diff() >= -1e-6
    ).all() and row.diff().max() < 0.12  # half a window's width for each step of 1/2


def test_pictures_of_a_batch_do_not_mix() -> None:
    x, tiled = picture(20, 26, 2), Tiled(Mean(), 8, 5)
    together = tiled(x, 3).x0
    assert torch.allclose(together, torch.cat([tiled(x[:1], 3).x0, tiled(x[1:], 3).x0]), atol=1e-6)


def test_windows_that_hold_nothing_wanted_are_left_out() -> None:
    where = torch.zeros(32, 32, dtype=torch.bool)
    where[3, 3] = True
    denoise, x = Pointwise(), picture(32, 32)
    tiled = Tiled(denoise, 8, 8, where)
    p = tiled(x, 1)
    assert tiled.corners(32, 32) == [(0, 0)] and denoise.shapes == [(1, 3, 8, 8)]
    assert torch.allclose(p.x0[..., :8, :8], x[..., :8, :8].sin(), atol=1e-6)
    assert not p.x0[..., 8:, :].any()
    nothing = Tiled(denoise, 8, 8, torch.zeros(32, 32, dtype=torch.bool))(x, 1)
    assert not nothing.x0.any() and len(denoise.shapes) == 1


def test_what_cannot_be_tiled_is_told() -> None:
    with pytest.raises(ValueError, match="a side of 7 pixels is shorter than the window of 8; enlarge"):
        Tiled(Mean(), 8, 4)(picture(7, 20), 0)
    for stride in (0, 9):
        with pytest.raises(ValueError, match=f"stride {stride} is not within 1 and the window's size 8"):
            Tiled(Mean(), 8, stride)
