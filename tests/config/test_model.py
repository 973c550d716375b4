"""Resolution levels and respaced steps, derived from the keys of the network and the process."""

import pytest

from guided_diffusion.config.builder import construct
from guided_diffusion.config.model import ProcessConfig
from guided_diffusion.config.resolutions import attention_downsamples, channel_mults


@pytest.mark.parametrize(
    ("size", "mults"),
    [(512, (0.5, 1, 1, 2, 2, 4, 4)), (256, (1, 1, 2, 2, 4, 4)), (128, (1, 1, 2, 3, 4)), (64, (1, 2, 3, 4))],
)
def test_channel_multipliers(size, mults):
    assert channel_mults("", size) == mults
    assert channel_mults("1, 2", size) == (1, 2)


def test_attention_downsamples_converts_pixels_to_factors():
    assert attention_downsamples("32,16,8", 256) == (8, 16, 32)
    assert attention_downsamples("", 256) == ()


@pytest.mark.parametrize(
    ("respacing", "steps"),
    [("250", 250), (250, 250), ([10, 15, 25], 50), ("10,15,25", 50), ("ddim50", 50), ("", 1000)],
)
def test_number_of_respaced_steps(respacing, steps):
    assert construct(ProcessConfig, {"timestep_respacing": respacing}).num_steps == steps
