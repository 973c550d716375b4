"""From config values to networks, samplers and processes; the cost of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from guided_diffusion.config.builder import construct
from guided_diffusion.config.resolutions import attention_downsamples, channel_mults
from guided_diffusion.config.schema import ClassifierConfig, Config, ModelConfig, ProcessConfig
from guided_diffusion.denoiser import network_times
from guided_diffusion.errors import ConfigError
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.nn import Upsample
from guided_diffusion.respace import get_named_beta_schedule, respaced_betas, space_timesteps
from guided_diffusion.runtime.device import DTYPES
from guided_diffusion.runtime.memory import release_mapped_pages
from guided_diffusion.runtime.onednn_conv import prepack_conv
from guided_diffusion.samplers import SAMPLERS, Sampler
from guided_diffusion.unet import Encoder, EncoderUNetModel, ResBlock, UNetModel

NUM_CLASSES = 1000  # ImageNet


def build_network(model: ModelConfig, channels: int = 3) -> UNetModel:
    """Build the U-Net of a config, freshly initialised, on torch's default device.

    channels: of the images in model space, 3 for pixels.
    """
    spec = Encoder(
        in_channels=channels,
        model_channels=model.num_channels,
        num_res_blocks=model.num_res_blocks,
        channel_mult=model.channel_mults,
        attention_downsamples=model.attention_downsamples,
        num_heads=model.num_heads,
        num_head_channels=model.num_head_channels,
        dropout=model.dropout,
        use_scale_shift_norm=model.use_scale_shift_norm,
        resblock_updown=model.resblock_updown,
        use_new_attention_order=model.use_new_attention_order,
        use_checkpoint=model.use_checkpoint,
        norm_num_groups=model.norm_num_groups,
    )
    classes = NUM_CLASSES if model.class_cond else None
    outputs = 2 * channels if model.learn_sigma else channels
    return UNetModel(spec, outputs, classes, model.num_heads_upsample)


def place(network: nn.Module, device: torch.device, precision: str, side: int | None = None) -> nn.Module:
    """The network as it runs there: its body in the precision's type, all else in float32, its convolutions
    with channels last. side: the images' height and width where no gradients will be asked for: a CPU's
    convolutions are then packed.

    It is changed in place, layer by layer, and the file that a weight was mapped from is let go of, so that
    no second copy of all is held.
    """
    narrow: set[int] = set()
    shapes: dict[str, list[int]] = {}
    if isinstance(network, UNetModel):
        if DTYPES[precision].itemsize == 2:
            narrow = {id(weight) for part in network.body for weight in part.parameters()}
        if side is not None:
            shapes = convolution_inputs(network, side)
    for name in [name for name, _ in network.named_modules()]:
        layer = network.get_submodule(name)
        for weight in layer.parameters(recurse=False):
            dtype = DTYPES[precision] if id(weight) in narrow else torch.float32
            layout = torch.channels_last if weight.ndim == 4 else torch.preserve_format
            stored = weight.data
            weight.data = stored.to(device, dtype, memory_format=layout)
            if weight.data_ptr() != stored.data_ptr():
                release_mapped_pages(stored)
        if name in shapes:
            network.set_submodule(name, prepack_conv(layer, shapes[name]))
    return network.to(device)


def convolution_inputs(network: UNetModel, side: int) -> dict[str, list[int]]:
    """Name -> shape (1, C, H, W) of what each of a U-Net's convolutions is given for an image of that side.

    Told by the order of the layers. A pass of meta tensors would tell it too, but takes over a second and
    80 MB, for what torch imports to have it.
    """
    shapes = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            shapes[name] = [1, layer.in_channels, side, side]
            side //= layer.stride[0]
        elif isinstance(layer, Upsample) or (isinstance(layer, ResBlock) and layer.resample == "up"):
            side *= 2
        elif isinstance(layer, ResBlock) and layer.resample == "down":
            side //= 2
    return shapes


def build_classifier(config: ClassifierConfig, image_size: int, channel_mult: str = "") -> EncoderUNetModel:
    """Build the noisy ImageNet classifier of a config, freshly initialised, on torch's default device.

    Its levels are those of guided-diffusion for the image size; where there are none for that size,
    `channel_mult` (the model's) gives them.
    """
    spec = Encoder(
        in_channels=3,
        model_channels=config.classifier_width,
        num_res_blocks=config.classifier_depth,
        channel_mult=_classifier_mults(image_size, channel_mult),
        attention_downsamples=attention_downsamples(config.classifier_attention_resolutions, image_size),
        num_head_channels=64,
        use_scale_shift_norm=config.classifier_use_scale_shift_norm,
        resblock_updown=config.classifier_resblock_updown,
    )
    return EncoderUNetModel(spec, image_size, NUM_CLASSES, config.classifier_pool)


def _classifier_mults(image_size: int, otherwise: str) -> tuple[float, ...]:
    try:
        return channel_mults("", image_size)
    except ConfigError:
        return channel_mults(otherwise, image_size)


def build_sampler(config: Config) -> tuple[Sampler, list[str]]:
    """Build the sampler of a config, with warnings about keys that it does not read. Raises ConfigError."""
    cls = SAMPLERS[config.method]
    known = {field.name for field in fields(cls)}
    options = {key: value for key, value in config.options.items() if key in known}
    foreign = sorted(set(config.options) - set(options))
    warning = f"keys that method {config.method} does not read: {', '.join(foreign)}"
    return construct(cls, options, f"method {config.method}"), [warning] if foreign else []


def build_process(config: ProcessConfig) -> tuple[GaussianDiffusion, Tensor]:
    """Build the respaced process, and (T,) the time the network was trained with for each of its indices."""
    betas = get_named_beta_schedule(config.noise_schedule, config.diffusion_steps)
    timesteps = space_timesteps(config.diffusion_steps, config.timestep_respacing)
    times = network_times(timesteps, config.diffusion_steps, config.rescale_timesteps)
    if len(timesteps) < len(betas):
        betas = respaced_betas(betas, timesteps)
    return GaussianDiffusion(betas), times


def flops_per_evaluation(model: ModelConfig, shape: Sequence[int]) -> int:
    """Count the floating-point operations of one evaluation on (B, 3, H, W), without weights or memory."""
    with torch.device("meta"):
        network: nn.Module = build_network(model)
        x, t = torch.empty(*shape), torch.zeros(1)
        label = (torch.zeros(shape[0], dtype=torch.long),) if model.class_cond else ()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(x, t, *label)
    return counter.get_total_flops()
