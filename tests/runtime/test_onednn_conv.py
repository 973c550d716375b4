"""Tests of runtime/onednn_conv.py: packed networks match plain ones, whatever the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from guided_diffusion.build import build_network
from guided_diffusion.runtime.device import has_bf16
from guided_diffusion.runtime.graphs import trace
from guided_diffusion.runtime.inference import place_network, prepare_for_inference
from guided_diffusion.runtime.onednn_conv import PackedConv2d, prepack_conv
from tests.helpers import stored

CPU = torch.device("cpu")
SHAPE = [1, 3, 8, 8]
TIME = torch.tensor([700])
WIDE = replace(stored.TINY, image_size=32, num_channels=64, channel_mult="1,1,2", attention_resolutions="8")


def network(precision: str, gradients: bool) -> nn.Module:
    torch.manual_seed(0)
    built = build_network(WIDE).eval().requires_grad_(False)
    for parameter in built.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # some are initialised to zero
    if gradients:
        return place_network(built, CPU, precision)
    return prepare_for_inference(built, CPU, precision, WIDE.image_size)


def images(count: int = 5) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 1e-2)])
def test_packed_network_matches_the_plain_one(precision: str, tolerance: float) -> None:
    plain, packed, x = network(precision, True), network(precision, False), images()
    with torch.no_grad():
        before, after = plain(x, TIME), packed(x, TIME)
    assert not any(type(layer) is nn.Conv2d for layer in packed.modules())
    assert (after - before).norm() <= tolerance * before.norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_packed_network_is_independent_of_the_batch_to_the_bit(precision: str) -> None:
    """torch's own convolutions, and products with a single row, use other kernels for small batches."""
    packed, x = network(precision, False), images()
    with torch.no_grad():
        batch = packed(x, TIME)
        for size in (1, 2, 3):
            parts = torch.cat([packed(part, TIME) for part in x.split(size)])
            assert torch.equal(parts, batch)


@pytest.mark.parametrize("stride", [1, 2])
def test_prepack_conv_matches_the_convolution(stride: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 7, 3, stride=stride, padding=1, bias=stride == 1)
    x = torch.randn(2, 5, 9, 12).to(memory_format=torch.channels_last)
    packed = prepack_conv(layer, list(x.shape))
    assert isinstance(packed, PackedConv2d)
    with torch.no_grad():
        assert torch.allclose(packed(x), layer(x), atol=1e-5)
        assert torch.equal(trace(packed, (x,))(x), packed(x))
    assert sum(p.numel() for p in packed.parameters()) == sum(p.numel() for p in layer.parameters())


def test_prepack_conv_leaves_unsupported_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    double = nn.Conv2d(3, 3, 1, dtype=torch.float64)
    elsewhere = nn.Conv2d(3, 3, 1, device="meta")
    for left in (double, elsewhere):
        assert prepack_conv(left, SHAPE) is left
    monkeypatch.setattr(torch.ops, "mkldnn", object())  # a torch without the operator
    plain = nn.Conv2d(3, 3, 1)
    assert prepack_conv(plain, SHAPE) is plain


@pytest.mark.skipif(not has_bf16(CPU), reason="bfloat16 is emulated here")
def test_packed_network_in_bf16_is_bit_identical_to_the_plain_one() -> None:
    x = images()
    with torch.no_grad():
        assert torch.equal(network("bf16", True)(x, TIME), network("bf16", False)(x, TIME))
