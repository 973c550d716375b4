"""Tests of runtime/cpu_kernels.py: the faster layers against the plain ones, and whole networks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.build import build_network
from guided_diffusion.nn import EmbeddingProjection, GroupNorm32, QKVAttention
from guided_diffusion.runtime.cpu_kernels import (
    FewTokensAttention,
    FoldedGroupNorm,
    RowwiseProjection,
    use_faster_layers,
)
from tests.helpers import stored

LAST = torch.channels_last


def norm(channels: int, groups: int, dtype: torch.dtype) -> FoldedGroupNorm:
    torch.manual_seed(1)
    plain = GroupNorm32(groups, channels)
    for parameter in plain.parameters():
        parameter.data = torch.randn_like(parameter)
    return FoldedGroupNorm(plain.to(dtype))


def features(batch: int, channels: int, side: int, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(2)
    return (3 + 2 * torch.randn(batch, channels, side, side)).to(dtype).to(memory_format=LAST)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", [8, 40])  # few pixels, and more than 1024
def test_folded_group_norm_is_independent_of_layout_and_batch(dtype: torch.dtype, side: int) -> None:
    x, layer = features(3, 16, side, dtype), norm(16, 8, dtype)
    exact = F.group_norm(x.double(), 8, layer.weight.double(), layer.bias.double(), layer.eps)
    with torch.no_grad():
        out = layer(x)
        assert out.dtype == dtype and out.is_contiguous(memory_format=LAST)
        tolerance = 1e-5 if dtype == torch.float32 else 0.02
        for result in (out, layer(x.contiguous())):
            assert torch.allclose(result.double(), exact, rtol=tolerance, atol=tolerance)
        assert torch.equal(torch.cat([layer(row) for row in x.split(1)]), out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 16, 1, 1), (3, 16, 1, 1), (3, 16, 8, 8)])
def test_folded_group_norm_applies_scale_and_shift(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
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


@pytest.mark.parametrize("tokens", [16, 1024, 1100])
@pytest.mark.parametrize("new_order", [False, True])
def test_few_tokens_attention_is_near_float64(tokens: int, new_order: bool) -> None:
    torch.manual_seed(3)
    qkv = torch.randn(2, tokens, 3 * 32).bfloat16()
    with torch.no_grad():
        attend = FewTokensAttention(QKVAttention(2, new_order))
        out, exact = attend(qkv), attend(qkv.double())
        assert torch.equal(torch.cat([attend(row[None]) for row in qkv]), out)
    assert out.dtype == torch.bfloat16
    assert (out.double() - exact).norm() < 0.01 * exact.norm()


def test_few_tokens_attention_takes_torch_s_kernel_under_gradients() -> None:
    torch.manual_seed(4)
    attend = FewTokensAttention(QKVAttention(1, True))
    qkv = torch.randn(1, 16, 3 * 8).bfloat16().requires_grad_()
    (slope,) = torch.autograd.grad(attend(qkv).float().square().sum(), qkv)
    exact = qkv.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(attend(exact).square().sum(), exact)
    assert (slope.double() - expected).norm() < 0.03 * expected.norm()


def test_rowwise_projection_is_independent_of_the_batch() -> None:
    torch.manual_seed(5)
    plain = EmbeddingProjection(torch.nn.SiLU(), torch.nn.Linear(128, 96))
    layer, emb = RowwiseProjection(plain), torch.randn(5, 128)
    with torch.no_grad():
        out = layer(emb, 8)
        assert torch.equal(torch.cat([layer(row, 8) for row in emb.split(1)]), out)
        assert torch.allclose(out, plain(emb, 8), atol=1e-5)
        maps = {8: torch.randn(2, 8, 8, 128)}
        assert torch.equal(layer(maps, 8), plain(maps, 8))
    assert torch.equal(layer(emb, 8), plain(emb, 8)), "under gradients the plain layer"


def test_use_faster_layers_keeps_parameters_and_their_names() -> None:
    network = build_network(stored.TINY)
    before = dict(network.named_parameters())
    plain = (GroupNorm32, EmbeddingProjection, QKVAttention)
    assert {type(layer) for layer in network.modules()} >= {*plain}
    assert use_faster_layers(network) is network
    after = dict(network.named_parameters())
    assert [*before] == [*after] and all(before[name] is after[name] for name in before)
    assert not {type(layer) for layer in network.modules()} & {*plain}
