"""The contract of observations: A A^+ A = A, and replacement of exactly the observed part."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as nps
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guided_diffusion.operators import LowPass, Mask, NoObservation, Operator, replace_range

SHAPE = (2, 3, 4, 5)


class Identity(Operator):
    """Observes everything."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def pinv(self, y: Tensor) -> Tensor:
        return y


def images() -> Any:
    values = st.floats(-4, 4, width=32)
    return nps.arrays(np.float32, SHAPE, elements=values, fill=values).map(torch.from_numpy)


def masks() -> Any:
    shapes = st.sampled_from([(2, 1, 4, 5), SHAPE, (1, 1, 4, 5)])
    keep = nps.arrays(np.float32, shapes, elements=st.sampled_from([0.0, 1.0]))
    return keep.map(torch.from_numpy).map(Mask)


def operators() -> Any:
    return masks() | st.sampled_from([Identity(), NoObservation()])


@settings(deadline=None)
@given(operators(), images())
def test_pinv_is_a_pseudo_inverse(operator: Operator, x: Tensor) -> None:
    seen = operator.forward(x)
    assert torch.equal(operator.forward(operator.pinv(seen)), seen)
    back = operator.pinv(seen)
    assert torch.equal(operator.pinv(operator.forward(back)), back)


@settings(deadline=None)
@given(operators(), images(), images())
def test_replace_range_takes_y_where_observed_and_x_elsewhere(
    operator: Operator, x: Tensor, y: Tensor
) -> None:
    mixed = replace_range(operator, x, y)
    assert torch.equal(operator.forward(mixed), operator.forward(y))
    assert torch.equal(mixed - operator.pinv(operator.forward(mixed)), x - operator.pinv(operator.forward(x)))


@settings(deadline=None)
@given(masks(), images(), images())
def test_mask_replaces_pixels_to_the_last_bit(mask: Mask, x: Tensor, y: Tensor) -> None:
    assert torch.equal(replace_range(mask, x, y), torch.where(mask.keep == 1, y, x))


@settings(deadline=None)
@given(images(), images())
def test_replace_range_with_all_or_nothing_observed(x: Tensor, y: Tensor) -> None:
    assert torch.equal(replace_range(Identity(), x, y), y)
    assert torch.equal(replace_range(NoObservation(), x, y), x)


@settings(deadline=None)
@given(st.integers(1, 7), images(), images())
def test_low_pass_is_an_orthogonal_projection_onto_block_means(factor: int, x: Tensor, y: Tensor) -> None:
    low = LowPass(factor)
    seen = low.forward(x)
    for row, column in ((0, 0), (3, 4), (2, 1)):
        top, left = row // factor * factor, column // factor * factor
        block = x[..., top : top + factor, left : left + factor]
        assert torch.allclose(seen[..., row, column], block.mean((-2, -1)), atol=1e-5)
    assert torch.allclose(low.forward(low.pinv(seen)), seen, atol=1e-5)  # A A^+ A = A
    products = (seen * y).double().sum(), (x * low.forward(y)).double().sum()
    assert torch.allclose(*products, atol=1e-3)  # it is its own transpose
    assert torch.allclose(low.forward(replace_range(low, x, y)), low.forward(y), atol=1e-5)


class Halved(Operator):
    """Mean of neighbours: an observation that is not a choice of pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, 2)).mean(-1)

    def pinv(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(2, dim=-1)


def test_replace_range_takes_other_linear_observations() -> None:
    x, y = torch.tensor([[[[1.0, 3.0, 0.0, 2.0]]]]), torch.tensor([[[[5.0, 5.0, -1.0, 1.0]]]])
    assert torch.equal(replace_range(Halved(), x, y), torch.tensor([[[[4.0, 6.0, -1.0, 1.0]]]]))
