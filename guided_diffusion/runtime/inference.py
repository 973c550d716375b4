"""Networks on their device: precision, memory layout, and the layers that are fast there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from guided_diffusion.nn import Upsample
from guided_diffusion.runtime.cpu_kernels import use_faster_layers
from guided_diffusion.runtime.device import DTYPES
from guided_diffusion.runtime.memory import release_mapped_pages
from guided_diffusion.runtime.onednn_conv import prepack_conv
from guided_diffusion.unet import ResBlock, UNetModel


def prepare_for_inference(
    network: nn.Module, device: torch.device, precision: str, image_size: int
) -> nn.Module:
    """Move a network to a device, as `place_network` does, and prepack its convolutions on a CPU.

    The network must not be trained afterwards.

    Args:
        network: It is changed in place.
        device: The device it runs on.
        precision: fp32, tf32, bf16 or fp16.
        image_size: Side of the images, in pixels, that the convolutions are packed for.
    """
    shapes = convolution_inputs(network, image_size) if isinstance(network, UNetModel) else {}
    return place_network(network, device, precision, shapes)


def place_network(
    network: nn.Module, device: torch.device, precision: str, packed: Mapping[str, list[int]] | None = None
) -> nn.Module:
    """Move a network to a device; its layers become the faster ones of cpu_kernels.py.

    The body of a U-Net is converted to the precision, everything else to float32. Convolutions get the
    channels_last layout. This is done layer by layer, and the pages of a mapped weights file are released,
    so that no second copy of the whole network is held.

    Args:
        network: It is changed in place.
        device: The device it runs on.
        precision: fp32, tf32, bf16 or fp16.
        packed: Name -> input shape of the convolutions to prepack.
    """
    shapes = packed or {}
    narrow: set[int] = set()
    if isinstance(network, UNetModel) and DTYPES[precision].itemsize == 2:
        narrow = {id(weight) for part in network.body for weight in part.parameters()}
    use_faster_layers(network)
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
    """Return name -> input shape (1, C, H, W) of each convolution of a U-Net, for an image of that side.

    It follows the order of the layers. A pass of meta tensors would do the same, but takes over a second and
    80 MB for the modules that torch imports for it.
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
