"""The matte's edge: penumbrae of known width and place, cast over known ground, are found again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from guided_diffusion.shadow.field import ShadowField
from guided_diffusion.shadow.light import blur, log_light
from guided_diffusion.shadow.matte import Edge, fit_edge
from guided_diffusion.shadow.relight import signed_distance

N = 128
DOWN, RIGHT = torch.meshgrid(torch.arange(N) + 0.5, torch.arange(N) + 0.5, indexing="ij")
STRAIGHT = RIGHT - 64.0  # distance to the edge of the right half, positive in it
ROUND = 40.0 - torch.hypot(DOWN - 64, RIGHT - 64)
SHAPES = pytest.mark.parametrize("depth", [STRAIGHT, ROUND], ids=["straight", "round"])


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    """Switch gradients off, as `relight` does."""
    with torch.no_grad():
        yield


def ground(rough: float) -> Tensor:
    """Linear light (3, N, N) with grain of `rough` in its logarithm."""
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(2, N, N))).float()
    grain = rough * (7 * blur(noise[0], 2.0) + 0.2 * noise[1])
    return torch.exp(torch.tensor([-1.0, -1.2, -1.5])[:, None, None] + grain).clamp(max=1)


FIELD = ShadowField(torch.full((3, N, N), 1.3), torch.full((3,), -0.17), torch.full((3,), -2.5))


def step(depth: Tensor, width: Tensor | float, shift: Tensor | float) -> Tensor:
    return 0.5 * torch.erfc((shift - depth) / width / 2**0.5)


def cast(free: Tensor, matte: Tensor) -> Tensor:
    return free * (1 - matte + matte * torch.exp(-FIELD.gain(log_light(free))))


def fitted(depth: Tensor, matte: Tensor, rough: float) -> tuple[Edge, Tensor]:
    """The edge found under a mask that is `depth` > 0, and the mean error of its matte near that edge."""
    distance = signed_distance((depth > 0).numpy(), 100.0)
    edge = fit_edge(cast(ground(rough), matte), distance, FIELD)
    return edge, (edge.matte(distance) - matte)[depth.abs() < 8].abs().mean()


@SHAPES
@pytest.mark.parametrize(("width", "shift"), [(1.0, 0.0), (2.0, 0.0), (1.4, 2.0), (1.4, -2.0), (3.0, -1.0)])
def test_fit_edge_finds_width_and_shift_on_even_ground(depth: Tensor, width: float, shift: float) -> None:
    edge, off = fitted(depth, step(depth, width, shift), rough=0.0)
    near = depth.abs() < 2
    assert off < 0.02
    assert edge.width[near].median() == pytest.approx(width, rel=0.15)
    assert edge.shift[near].median() == pytest.approx(shift, abs=0.25)


@pytest.mark.parametrize(("width", "shift"), [(1.0, 0.0), (2.0, 0.0), (1.4, 2.0)])
def test_fit_edge_tolerates_texture(width: float, shift: float) -> None:
    edge, off = fitted(STRAIGHT, step(STRAIGHT, width, shift), rough=0.1)
    assert off < 0.03
    assert edge.width[STRAIGHT.abs() < 2].median() == pytest.approx(width, rel=0.25)
    assert edge.shift[STRAIGHT.abs() < 2].median() == pytest.approx(shift, abs=0.5)


@SHAPES
@pytest.mark.parametrize("shift", [-3.0, 3.0])
def test_fit_edge_corrects_a_mask_three_pixels_off(depth: Tensor, shift: float) -> None:
    matte = step(depth, 1.5, shift)
    edge, off = fitted(depth, matte, rough=0.05)
    as_drawn = (step(depth, 1.5, 0.0) - matte)[depth.abs() < 8].abs().mean()
    assert off < 0.25 * as_drawn
    assert edge.shift[depth.abs() < 2].median() == pytest.approx(shift, abs=0.5)


def test_fit_edge_follows_a_widening_penumbra() -> None:
    width = 0.6 + 3.2 * DOWN / N
    edge, off = fitted(STRAIGHT, step(STRAIGHT, width, 0.0), rough=0.03)
    width_found = edge.width[8:-8:16, 64]
    assert off < 0.02
    assert torch.allclose(width_found.log(), width[8:-8:16, 64].log(), atol=0.3)


def test_fit_edge_follows_a_mask_that_strays() -> None:
    shift = 2.0 * torch.sin(DOWN / N * 6.28)
    edge, off = fitted(STRAIGHT, step(STRAIGHT, 1.4, shift), rough=0.03)
    assert off < 0.03
    assert torch.allclose(edge.shift[4:-4:8, 64], shift[4:-4:8, 64], atol=0.7)


def test_fit_edge_corrects_an_edge_of_another_shape() -> None:
    # A penumbra in two steps, as two lamps cast it, is no blurred step.
    matte = 0.5 * step(STRAIGHT, 0.6, 3.0) + 0.5 * step(STRAIGHT, 0.6, -3.0)
    edge, off = fitted(STRAIGHT, matte, rough=0.0)
    distance = signed_distance((STRAIGHT > 0).numpy(), 100.0)
    without = Edge(edge.width, edge.shift, torch.zeros(N, N)).matte(distance)
    assert off < 0.8 * (without - matte)[STRAIGHT.abs() < 8].abs().mean()


def test_fit_edge_without_an_edge_gives_a_constant_matte() -> None:
    for mask in (np.zeros((N, N), bool), np.ones((N, N), bool)):
        distance = signed_distance(mask, 100.0)
        matte = fit_edge(ground(0.1), distance, FIELD).matte(distance)
        assert torch.allclose(matte, torch.tensor(float(mask.all())), atol=1e-3)


def test_edge_matte_is_the_normal_distribution_function_within_bounds() -> None:
    def plane(value: float) -> Tensor:
        return torch.full((1, 5), value)

    distance = torch.tensor([[-40.0, -1.0, 1.0, 3.0, 40.0]])
    matte = Edge(plane(2.0), plane(1.0), plane(0.0)).matte(distance)
    assert torch.allclose(matte, torch.tensor([[0, 0.158655, 0.5, 0.841345, 1]]), atol=1e-5)
    raised = Edge(plane(2.0), plane(1.0), plane(0.3)).matte(distance)
    assert torch.allclose(raised, torch.tensor([[0.3, 0.458655, 0.8, 1, 1]]), atol=1e-5)


def test_edge_resize_scales_width_and_shift() -> None:
    edge = Edge(torch.full((8, 10), 1.5), torch.full((8, 10), -0.5), torch.full((8, 10), 0.1))
    large = edge.resize((24, 30), 3.0)
    distance = torch.linspace(-5, 5, 10).expand(8, 10)
    assert large.width.shape == large.correction.shape == (24, 30)
    assert torch.allclose(large.matte(3 * distance.repeat(3, 3)), edge.matte(distance).repeat(3, 3))
