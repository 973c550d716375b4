"""From config values to networks, samplers and processes; the cost of a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import get_type_hints

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from guided_diffusion.config.builder import construct
from guided_diffusion.config.resolutions import attention_downsamples, channel_mults
from guided_diffusion.config.schema import ClassifierConfig, Config, ModelConfig, ProcessConfig
from guided_diffusion.denoiser import network_times
from guided_diffusion.errors import ConfigError
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.respace import get_named_beta_schedule, respaced_betas, space_timesteps
from guided_diffusion.samplers import SAMPLERS, Sampler
from guided_diffusion.unet import Encoder, EncoderUNetModel, UNetModel

NUM_CLASSES = 1000  # ImageNet
SAMPLER_KEYS = {  # name -> type, so that errors can also name keys inside a type
    field.name: get_type_hints(cls, include_extras=True)[field.name]
    for cls in SAMPLERS.values()
    for field in fields(cls)
}


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


def build_classifier(
    config: ClassifierConfig, image_size: int, channel_mult: str = "", channels: int = 3
) -> EncoderUNetModel:
    """Build the noisy ImageNet classifier of a config, freshly initialised, on torch's default device.

    Its levels are those of guided-diffusion for the image size; where there are none for that size,
    `channel_mult` (the model's) gives them.
    """
    spec = Encoder(
        in_channels=channels,
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
    """Count the floating-point operations of one evaluation on (B, C, H, W), without weights or memory."""
    with torch.device("meta"):
        network: nn.Module = build_network(model, shape[1])
        x, t = torch.empty(*shape), torch.zeros(1)
        label = (torch.zeros(shape[0], dtype=torch.long),) if model.class_cond else ()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(x, t, *label)
    return counter.get_total_flops()


def check_settings(
    config: Config, process: GaussianDiffusion, sampler: Sampler, precision: str, device: str
) -> list[str]:
    """Return warnings, one line each. Raises ConfigError for settings that exclude each other."""
    _check_class(config)
    _check_classifier(config, sampler)
    return [
        *_precision_warning(config, precision, device),
        *_start_warning(process, sampler),
        *_unread_warnings(config, sampler),
    ]


def _check_class(config: Config) -> None:
    if config.cond_y is not None and config.cond_y >= NUM_CLASSES:
        raise ConfigError(
            f"cond_y {config.cond_y} is beyond the {NUM_CLASSES} classes; use 0..{NUM_CLASSES - 1}"
        )


def _check_classifier(config: Config, sampler: Sampler) -> None:
    guide = config.classifier
    if guide.classifier_path and guide.classifier_scale != 0 and not sampler.takes_classifier:
        raise ConfigError(
            f"method {config.method} shows clean pixels beside noisy ones, which no classifier knows; set "
            "classifier_scale: 0"
        )


def _precision_warning(config: Config, precision: str, device: str) -> Iterator[str]:
    if config.precision not in ("auto", precision):
        yield f"precision {config.precision} is for GPUs; on {device} it is {precision}"


def _start_warning(process: GaussianDiffusion, sampler: Sampler) -> Iterator[str]:
    """Warn if sampling enters the model at a level where the image should still be visible."""
    first, last = sampler.times(process)[0], process.num_timesteps - 1
    signal = process.alpha_bar(first) ** 0.5
    if sampler.needs_mask and first < last:
        yield (
            f"t_T {first + 1} is short of {last + 1} respaced steps: pure noise enters the model where "
            f"it expects {signal:.1%} signal; for fewer steps set timestep_respacing: '{first + 1}'"
        )


def _unread_warnings(config: Config, sampler: Sampler) -> Iterator[str]:
    """Warn of keys that are set and have no effect."""
    if sampler.needs_per_pixel_time and not config.model.per_pixel_time:
        yield (
            f"method {config.method} inpaints badly with a network that only knows images noisy all over; "
            "train one with per_pixel_time: true (docs/guide/training.md) and set it here too, or use method "
            "repaint"
        )
    if config.cond_y is not None and not config.model.class_cond and not config.classifier.classifier_path:
        yield "cond_y is not read: there is neither class_cond nor a classifier_path"
    if not getattr(sampler, "inpa_inj_sched_prev", True):
        yield "inpa_inj_sched_prev: false hides the known pixels from the model"
    if config.generate and (not sampler.generates or config.data.gt_path is not None):
        generators = " and ".join(name for name, cls in SAMPLERS.items() if cls.generates)
        yield f"generate is not read: it is for {generators}, without a data.gt_path"
