"""Tests of nn.py: the plain layers against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from guided_diffusion.nn import EmbeddingProjection, GroupNorm32, QKVAttention


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 16, 1, 1), (3, 16, 1, 1), (3, 16, 8, 8)])
def test_group_norm_applies_scale_and_shift(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = GroupNorm32(8, 16), (3 + 2 * torch.randn(3, 16, 8, 8)).to(dtype)
    for parameter in layer.parameters():
        parameter.data = torch.randn_like(parameter)
    layer.to(dtype)
    scale, shift = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    normal = F.group_norm(x.double(), 8, layer.weight.double(), layer.bias.double(), layer.eps)
    exact = normal * (1 + scale.double()) + shift.double()
    out = layer(x, scale, shift)
    assert out.dtype == layer(x).dtype == dtype and out.shape == x.shape
    tolerance = 1e-6 if dtype == torch.float32 else 6e-3
    assert (out.double() - exact).norm() < tolerance * exact.norm()
    assert (layer(x).double() - normal).norm() < tolerance * normal.norm()


@pytest.mark.parametrize("new_order", [False, True])
def test_attention_weights_values_by_softmax(new_order: bool) -> None:
    torch.manual_seed(1)
    heads, width, tokens = 2, 4, 5
    q, k, v = torch.randn(3, 2, heads, tokens, width).unbind()
    qkv = torch.stack([q, k, v], 1 if new_order else 2)  # (B, 3, heads, T, width), or heads before 3
    qkv = qkv.permute(0, 3, 1, 2, 4).reshape(2, tokens, 3 * heads * width)
    expected = torch.softmax(q @ k.transpose(2, 3) / width**0.5, dim=-1) @ v
    out = QKVAttention(heads, new_order)(qkv)
    assert torch.allclose(out, expected.transpose(1, 2).reshape(2, tokens, heads * width), atol=1e-6)


def test_embedding_projection_of_a_map_is_that_of_its_pixels() -> None:
    torch.manual_seed(2)
    layer, emb = EmbeddingProjection(torch.nn.SiLU(), torch.nn.Linear(6, 4)), torch.randn(2, 6)
    maps = {3: F.silu(emb)[:, None, None].expand(2, 3, 5, 6)}
    out = layer(maps, 3)
    assert out.shape == (2, 4, 3, 5)
    assert torch.allclose(out, layer(emb, 3).expand_as(out), atol=1e-6)
