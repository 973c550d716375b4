"""A small U-Net that predicts for each pixel of an image how likely it lies in a shadow.

Architecture: our `UNetModel` behind a pixel-unshuffle (Shi et al. 2016, arXiv 1609.05158), without time.
Where it differs: its input is the image and the logarithm of linear light, in which a shadow is a shift.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion.images.colour import to_linear
from guided_diffusion.shadow.light import log_light
from guided_diffusion.unet import Encoder, UNetModel

SIDE = 128  # pixels: the square root of the area it was trained on
MULTIPLE = 32  # height and width must be multiples of this
_BLOCK = 4


class Detector(nn.Module):
    """The shadow detector: images (B, 3, H, W), sRGB in [0, 1] -> logits (B, 1, H, W), > 0 = shadow.

    H and W are multiples of MULTIPLE. It was trained with SIDE for both.
    """

    def __init__(self) -> None:
        super().__init__()
        spec = Encoder(
            in_channels=6 * _BLOCK**2,
            model_channels=32,
            num_res_blocks=1,
            channel_mult=(1, 2, 2, 2),
            attention_downsamples=(8,),
            num_head_channels=32,
        )
        self.unet = UNetModel(spec, _BLOCK**2)

    def forward(self, image: Tensor) -> Tensor:
        log = log_light(to_linear(image))  # (B, 3, H, W) in [-6.2, 0]
        x = F.pixel_unshuffle(torch.cat([2 * image - 1, (log + 2) / 2], 1), _BLOCK)  # (B, 96, H/4, W/4)
        return F.pixel_shuffle(self.unet(x, torch.zeros(len(x), device=x.device)), _BLOCK)
