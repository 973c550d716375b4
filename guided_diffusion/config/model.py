"""Settings of the networks and of the diffusion process, under guided-diffusion's key names."""

import re
from dataclasses import dataclass
from typing import Literal

from guided_diffusion.config.builder import CommaList, Count, NonNegative
from guided_diffusion.config.resolutions import attention_downsamples, channel_mults
from guided_diffusion.errors import ConfigError


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of the network. Raises ConfigError if the resolution levels do not fit image_size."""

    image_size: Count = 256
    """Side of the images that the network was trained on, in pixels. Larger images are seen through crop
    windows (`windows`)."""
    num_channels: Count = 256
    """Channels of the first resolution level."""
    num_res_blocks: Count = 2
    """Residual blocks per resolution level."""
    num_heads: Count = 4
    """Attention heads. Read only if `num_head_channels` is -1."""
    num_heads_upsample: int = -1
    """Attention heads in the upsampling half; -1 = `num_heads`."""
    num_head_channels: int = 64
    """Channels per attention head; -1 = `num_heads` heads."""
    attention_resolutions: CommaList = "32,16,8"
    """Resolutions with self-attention, in pixels, such as `'32,16,8'`; `''` = none."""
    channel_mult: CommaList = ""
    """Channels of each resolution level, as multiples of `num_channels`, such as `'1,2,2,4'`; `''` =
    guided-diffusion's table for `image_size` 64, 128, 256 and 512."""
    dropout: NonNegative = 0.0
    """Fraction of features dropped in residual blocks. Training only."""
    class_cond: bool = False
    """Whether the network takes a class label (`cond_y`)."""
    use_checkpoint: bool = False
    """Recompute features in the backward pass to save memory. Training only."""
    use_scale_shift_norm: bool = True
    """Whether the timestep scales and shifts the normalised features; `false` = it is added to them."""
    resblock_updown: bool = True
    """Whether residual blocks change the resolution; `false` = convolutions do."""
    use_new_attention_order: bool = False
    """Order of the attention channels: `true` = split into queries, keys and values before heads."""
    learn_sigma: bool = True
    """Whether the network also predicts the variance: 6 output channels instead of 3."""
    norm_num_groups: Count = 32
    """Groups of channels that are normalised together. It must divide the channels of every level."""
    per_pixel_time: bool = False
    """Whether the network was, or is to be, trained on images with clean and noisy pixels side by side, each
    with its own timestep. Method `td_paint` needs such a network."""

    def __post_init__(self) -> None:
        # Parse both texts now, so that a mistake is reported before any work is done.
        channel_mults(self.channel_mult, self.image_size)
        attention_downsamples(self.attention_resolutions, self.image_size)

    @property
    def size_multiple(self) -> int:
        """Number that height and width of an image must be multiples of."""
        return 2 ** (len(self.channel_mults) - 1)

    @property
    def channel_mults(self) -> tuple[float, ...]:
        """Channel multiplier of each resolution level, finest first."""
        return channel_mults(self.channel_mult, self.image_size)

    @property
    def attention_downsamples(self) -> tuple[int, ...]:
        """Downsampling factors of the levels with self-attention."""
        return attention_downsamples(self.attention_resolutions, self.image_size)


@dataclass(frozen=True)
class ProcessConfig:
    """The diffusion process. Raises ConfigError for a timestep_respacing that diffusion_steps cannot give."""

    diffusion_steps: Count = 1000
    """Timesteps that the network was trained with."""
    noise_schedule: Literal["linear", "cosine"] = "linear"
    """Noise schedule of training. `linear`: Ho et al. 2020; `cosine`: Nichol and Dhariwal 2021."""
    timestep_respacing: CommaList = "250"
    """Timesteps to sample with: a number, a number per section (`'10,15,25'`), DDIM's spacing (`'ddim50'`),
    or `''` = all `diffusion_steps`."""
    predict_xstart: bool = False
    """Whether the network predicts the clean image; `false` = it predicts the noise."""
    rescale_timesteps: bool = False
    """Whether the network is given times from 0 to 1000, whatever `diffusion_steps` is."""
    rescale_learned_sigmas: bool = False
    """Whether the variational bound is weighted by `diffusion_steps` / 1000; `false` = by 1. Training
    only."""
    sigma_small: bool = False
    """Variance of a step without `learn_sigma`: `true` = the posterior's; `false` = beta."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_steps <= self.diffusion_steps:
            raise ConfigError(
                f"timestep_respacing {self.timestep_respacing!r} asks for {self.num_steps} steps; "
                f"diffusion_steps {self.diffusion_steps} allows 1 to {self.diffusion_steps}"
            )

    @property
    def num_steps(self) -> int:
        """Number of steps of the respaced process."""
        text = self.timestep_respacing.replace(" ", "")
        if not text:
            return self.diffusion_steps
        if not re.fullmatch(r"(ddim)?[0-9]{1,9}|[0-9]{1,9}(,[0-9]{1,9})+", text):
            raise ConfigError(f"timestep_respacing {text!r} is none of 250, '10,15,25', 'ddim50' and ''")
        return sum(int(count) for count in text.removeprefix("ddim").split(","))


@dataclass(frozen=True)
class ClassifierConfig:
    """Classifier guidance (Dhariwal and Nichol 2021). There is none without `classifier_path`."""

    classifier_path: str | None = None
    """Checkpoint of the classifier: file or remote address; `null` = no guidance."""
    classifier_scale: float = 1.0
    """Strength of the guidance; 0 = none."""
    classifier_width: Count = 128
    """Channels of the classifier's first resolution level."""
    classifier_depth: Count = 2
    """Residual blocks per resolution level of the classifier."""
    classifier_attention_resolutions: CommaList = "32,16,8"
    """Resolutions with self-attention in the classifier, in pixels."""
    classifier_use_scale_shift_norm: bool = True
    """Same as `use_scale_shift_norm`, for the classifier."""
    classifier_resblock_updown: bool = True
    """Same as `resblock_updown`, for the classifier."""
    classifier_pool: Literal["adaptive", "attention", "spatial", "spatial_v2"] = "attention"
    """How the classifier pools its features. `attention` takes images of `image_size` only."""
