"""nn: the quick ways of small layers against what they stand for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.nn import GroupNorm32, attend

LAST = torch.channels_last


def norm(channels: int, groups: int, dtype: torch.dtype) -> GroupNorm32:
    torch.manual_seed(1)
    made = GroupNorm32(groups, channels)
    for parameter in made.parameters():
        parameter.data = torch.randn_like(parameter)
    return made.to(dtype)


def features(batch: int, channels: int, side: int, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(2)
    return (3 + 2 * torch.randn(batch, channels, side, side)).to(dtype).to(memory_format=LAST)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", [8, 40])  # few pixels, and more than 1024
def test_group_norm_is_the_same_however_its_input_lies(dtype: torch.dtype, side: int) -> None:
    x, layer = features(3, 16, side, dtype), norm(16, 8, dtype)
    exact = F.group_norm(x.double(), 8, layer.weight.double(), layer.bias.double(), layer.eps)
    with torch.no_grad():
        out = layer(x)
        assert out.dtype == dtype and out.is_contiguous(memory_format=LAST)
        tolerance = 1e-5 if dtype == torch.float32 else 0.02
        for told in (out, layer(x.contiguous())):
            assert torch.allclose(told.double(), exact, rtol=tolerance, atol=tolerance)
        assert torch.equal(torch.cat([layer(each) for each in x.split(1)]), out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 16, 1, 1), (3, 16, 1, 1), (3, 16, 8, 8)])
def test_a_modulated_norm_is_the_norm_times_scale_plus_shift(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x, layer = features(3, 16, 8, dtype), norm(16, 8, dtype)
    scale, shift = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    normal = F.group_norm(x.double(), 8, layer.weight.double(), layer.bias.double(), layer.eps)
    exact = normal * (1 + scale.double()) + shift.double()
    with torch.no_grad():
        out = layer(x, scale, shift)
        if len(scale) == len(x):  # as with labels
            rows = zip(x.split(1), scale.split(1), shift.split(1), strict=True)
            assert torch.equal(torch.cat([layer(*row) for row in rows]), out)
    assert out.dtype == dtype and out.shape == x.shape
    error = ((out.double() - exact).norm() / exact.norm()).item()
    assert error < (1e-6 if dtype == torch.float32 else 6e-3)


@pytest.mark.parametrize("places", [16, 1024, 1100])
@pytest.mark.parametrize("new_order", [False, True])
def test_attention_in_bfloat16_is_near_that_in_float64(places: int, new_order: bool) -> None:
    torch.manual_seed(3)
    qkv = torch.randn(2, places, 3 * 32).bfloat16()
    with torch.no_grad():
        out, exact = attend(qkv, 2, new_order), attend(qkv.double(), 2, new_order)
        assert torch.equal(torch.cat([attend(each[None], 2, new_order) for each in qkv]), out)
    assert out.dtype == torch.bfloat16
    assert (out.double() - exact).norm() < 0.01 * exact.norm()


def test_gradients_of_attention_in_bfloat16_are_torch_s_own() -> None:
    torch.manual_seed(4)
    qkv = torch.randn(1, 16, 3 * 8).bfloat16().requires_grad_()
    (slope,) = torch.autograd.grad(attend(qkv, 1, True).float().square().sum(), qkv)
    exact = qkv.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(attend(exact, 1, True).square().sum(), exact)
    assert (slope.double() - expected).norm() < 0.03 * expected.norm()
