"""Colour: sRGB's published values, for arrays and tensors."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from guided_diffusion.images.colour import to_linear, to_srgb


@pytest.mark.parametrize("levels", [256, 65536])
def test_to_srgb_inverts_to_linear_at_every_level(levels: int) -> None:
    level = torch.arange(levels)
    assert torch.equal((to_srgb(to_linear(level / (levels - 1))) * (levels - 1)).round().long(), level)


@pytest.mark.parametrize(
    ("srgb", "linear"),  # the last four: IEC 61966-2-1 worked out by hand
    [(0, 0), (1, 1), (0.04045, 0.0031308), (0.02, 0.02 / 12.92), (0.5, 0.2140411), (188 / 255, 0.5028865)],
)
def test_to_linear_and_to_srgb_give_published_values(srgb: float, linear: float) -> None:
    assert to_linear(torch.tensor(srgb)).item() == pytest.approx(linear, abs=2e-6)
    assert to_srgb(torch.tensor(linear)).item() == pytest.approx(srgb, abs=2e-5)


def test_to_srgb_clips_and_to_linear_does_not() -> None:
    assert torch.allclose(to_srgb(torch.tensor([-0.1, 1.7, math.inf])), torch.tensor([0.0, 1.0, 1.0]))
    dim = to_linear(torch.tensor([-0.2, 1.3]))
    assert dim[0] <= 0 and dim[1] > 1


def test_to_linear_of_arrays_follows_the_standard() -> None:
    got = to_linear(np.array([0.0, 0.04045, 0.5, 1.0]))
    assert got == pytest.approx([0, 0.0031308, 0.2140411, 1], abs=1e-6)


def test_arrays_and_tensors_give_equal_colours() -> None:
    values = np.linspace(0, 1, 4001)
    tensor = torch.from_numpy(values)
    np.testing.assert_allclose(to_linear(values), to_linear(tensor).numpy(), atol=1e-15)
    np.testing.assert_allclose(to_srgb(values), to_srgb(tensor).numpy(), atol=1e-15)
    np.testing.assert_allclose(to_srgb(np.array([-0.1, 1.7, math.inf])), [0, 1, 1])


def test_gradients_are_finite_at_the_ends() -> None:
    ends = torch.tensor([-0.1, 0.0, 1.0, 1.1], requires_grad=True)
    for function in (to_linear, to_srgb):
        (slope,) = torch.autograd.grad(function(ends).sum(), ends)
        assert torch.isfinite(slope).all()


def test_colour_of_arrays_loads_no_torch() -> None:
    code = (
        "import sys, numpy as np; from guided_diffusion.images.colour import to_linear; "
        "to_linear(np.ones(3)); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
