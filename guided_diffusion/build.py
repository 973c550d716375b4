"""From config values to networks and processes; what a network costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from guided_diffusion.config.resolutions import attention_downsamples, channel_mults
from guided_diffusion.config.schema import ClassifierConfig, ModelConfig, ProcessConfig
from guided_diffusion.denoiser import network_times
from guided_diffusion.errors import ConfigError
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.nn import Upsample
from guided_diffusion.respace import get_named_beta_schedule, respaced_betas, space_timesteps
from guided_diffusion.runtime.hardware import DTYPES, let_go
from guided_diffusion.runtime.onednn_conv import packed
from guided_diffusion.unet import Encoder, EncoderUNetModel, ResBlock, UNetModel

NUM_CLASSES = 1000  # ImageNet


def build_network(model: ModelConfig) -> UNetModel:
    """The U-Net of a config, freshly initialised, on torch's default device."""
    spec = Encoder(
        in_channels=3,
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
    return UNetModel(spec, 6 if model.learn_sigma else 3, classes, model.num_heads_upsample)


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
                let_go(stored)
        if name in shapes:
            network.set_submodule(name, packed(layer, shapes[name]))
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
    """The noisy ImageNet classifier of a config, freshly initialised, on torch's default device.

    Its levels are guided-diffusion's for the image size; where there are none for that size, `channel_mult`
    (the model's) tells them.
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


def build_process(config: ProcessConfig) -> tuple[GaussianDiffusion, Tensor]:
    """The respaced process, and for each of its indices the time the network was trained with."""
    betas = get_named_beta_schedule(config.noise_schedule, config.diffusion_steps)
    timesteps = space_timesteps(config.diffusion_steps, config.timestep_respacing)
    times = network_times(timesteps, config.diffusion_steps, config.rescale_timesteps)
    if len(timesteps) < len(betas):
        betas = respaced_betas(betas, timesteps)
    return GaussianDiffusion(betas), times


def flops_per_evaluation(model: ModelConfig, shape: Sequence[int]) -> int:
    """Floating-point operations of one evaluation on (B, 3, H, W); counted without weights or memory."""
    with torch.device("meta"):
        network: nn.Module = build_network(model)
        x, t = torch.empty(*shape), torch.zeros(1)
        label = (torch.zeros(shape[0], dtype=torch.long),) if model.class_cond else ()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(x, t, *label)
    return counter.get_total_flops()


def matrix_rate(
    device: torch.device,
    precision: str = "fp32",
    seconds: float = 0.2,
    now: Callable[[], float] = time.perf_counter,
) -> float:
    """FLOP/s of the fastest of the matrix products that fit into `seconds`, on random numbers.

    precision: fp32 | tf32 | bf16 | fp16; now: the clock of each product. Random, since constant
    ones switch fewer transistors and flatter a GPU.
    """
    side = 8192 if device.type == "cuda" else 1024
    generator = torch.Generator(device).manual_seed(0)
    a = torch.randn(side, side, generator=generator, device=device)
    a = a.to(DTYPES[precision])
    end, best = time.monotonic() + seconds, float("inf")
    product = torch.empty_like(a)
    torch.mm(a, a, out=product)  # warms up
    while best == float("inf") or time.monotonic() < end:
        begin = now()
        torch.mm(a, a, out=product)
        product[0, 0].item()  # waits for it
        best = min(best, now() - begin)
    return 2 * side**3 / best
