"""A small U-Net that sees an image and tells for each pixel how likely it lies in a shadow.

Architecture: our `UNetModel` behind a pixel-unshuffle (Shi et al. 2016, arXiv 1609.05158), without time.
Where it differs: it is told the logarithm of linear light beside the image, where a shadow is a shift.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion.shadow.light import log_light, to_linear
from guided_diffusion.unet import Encoder, UNetModel

SIDE = 128  # pixels: the square root of the area it was trained on
MULTIPLE = 32  # height and width must be multiples of this
_BLOCK = 4


class Detector(nn.Module):
    """Images (B, 3, H, W), sRGB in [0, 1] -> logits (B, 1, H, W), > 0 = shadow.

    H and W are multiples of MULTIPLE; it was trained with SIDE for both.
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
