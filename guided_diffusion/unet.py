"""The U-Net of guided-diffusion and its classifier half, from one encoder builder.

Papers: Ho et al. 2020 (arXiv 2006.11239), Nichol & Dhariwal 2021 (arXiv 2102.09672), Dhariwal & Nichol 2021
(arXiv 2105.05233, "ADM"). Parameter names and shapes are those of the published checkpoints, so that
guided-diffusion, improved-diffusion and RePaint state dicts load 1:1; the code is our own.
Where we differ: attention is torch's scaled_dot_product_attention.

Shapes: B batch, C channels, H x W pixels, E = 4 * model_channels (width of the time embedding).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from guided_diffusion.nn import (
    AttentionPool2d,
    Downsample,
    Embedding,
    EmbeddingProjection,
    QKVAttention,
    Upsample,
    embed_time_map,
    in_float32,
    normalization,
    pointwise,
    timestep_embedding,
    zero_module,
)


@dataclass(frozen=True)
class Encoder:
    """Settings and layers of the down-sampling half of either network."""

    in_channels: int
    """Channels of the input."""
    model_channels: int
    """Width that channel_mult multiplies."""
    num_res_blocks: int
    """Residual blocks of each level."""
    channel_mult: tuple[float, ...]
    """Width of each level, in units of model_channels."""
    attention_downsamples: tuple[int, ...]
    """Down-sampling factors at which there is attention, e.g. (4, 8)."""
    num_heads: int = 1
    """Attention heads."""
    num_head_channels: int = -1
    """Channels of a head; when not -1, overrides num_heads."""
    dropout: float = 0.0
    """Probability, in [0, 1], that training zeroes a feature inside a residual block."""
    use_scale_shift_norm: bool = False
    """Let the time embedding scale and shift the second norm of a block, instead of being added before it."""
    resblock_updown: bool = False
    """Resample in residual blocks instead of in single convolutions."""
    use_new_attention_order: bool = False
    """Order of q, k, v and heads in the attention's channels; see QKVAttention."""
    use_checkpoint: bool = False
    """Recompute activations in the backward pass, to save memory."""
    norm_num_groups: int = 32
    """Groups of the normalisations."""

    @property
    def embedding_channels(self) -> int:
        return 4 * self.model_channels

    def norm(self, channels: int) -> nn.Module:
        return normalization(channels, self.norm_num_groups)

    def res(self, channels: int, out: int, resample: str = "") -> ResBlock:
        return ResBlock(channels, self.embedding_channels, out, self, resample)

    def attention(self, channels: int, num_heads: int = -1) -> AttentionBlock:
        heads = self.num_heads if num_heads == -1 else num_heads
        if self.num_head_channels != -1:
            if channels % self.num_head_channels:
                raise ValueError(
                    f"num_head_channels {self.num_head_channels} does not divide {channels} channels; "
                    "choose a divisor, -1 to use num_heads, or another width"
                )
            heads = channels // self.num_head_channels
        return AttentionBlock(channels, heads, self)

    def down(self, channels: int) -> nn.Module:
        return self.res(channels, channels, "down") if self.resblock_updown else Downsample(channels)

    def up(self, channels: int) -> nn.Module:
        return self.res(channels, channels, "up") if self.resblock_updown else Upsample(channels)


class EmbeddedSequential(nn.Sequential):
    """A Sequential that passes the time embedding to its residual blocks."""

    def forward(self, x: Tensor, emb: Embedding) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class ResBlock(nn.Module):
    """x -> skip(x) + out(in(x), emb), optionally resampled x2 or x1/2 inside."""

    def __init__(self, channels: int, emb_channels: int, out: int, spec: Encoder, resample: str = "") -> None:
        super().__init__()
        self.resample = resample
        self.use_scale_shift_norm = spec.use_scale_shift_norm
        self.use_checkpoint = spec.use_checkpoint
        self.in_layers = nn.Sequential(spec.norm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        emb_out = 2 * out if spec.use_scale_shift_norm else out
        self.emb_layers = EmbeddingProjection(nn.SiLU(), nn.Linear(emb_channels, emb_out))
        self.out_layers = nn.Sequential(
            spec.norm(out),
            nn.SiLU(),
            nn.Dropout(p=spec.dropout),
            zero_module(nn.Conv2d(out, out, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x: Tensor, emb: Embedding) -> Tensor:
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(self._forward, x, emb, use_reentrant=False)
        return self._forward(x, emb)

    def _forward(self, x: Tensor, emb: Embedding) -> Tensor:
        norm, activation, conv = self.in_layers
        h = conv(self._resampled(activation(norm(x))))  # (B, out, H', W')
        x = self._resampled(x)  # (B, C, H', W')
        e = self.emb_layers(emb, h.shape[2])  # (B, out or 2 out, 1 or H', 1 or W')
        if self.use_scale_shift_norm:
            scale, shift = e.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h, scale, shift))
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(x) + h


class AttentionBlock(nn.Module):
    """Self-attention over all pixels with a residual connection."""

    def __init__(self, channels: int, heads: int, spec: Encoder) -> None:
        super().__init__()
        self.use_checkpoint = spec.use_checkpoint
        self.norm = spec.norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.attention = QKVAttention(heads, spec.use_new_attention_order)
        self.proj_out = zero_module(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C): without a copy from channels_last
        h = self.attention(pointwise(self.qkv, tokens))  # (B, HW, C)
        return x + pointwise(self.proj_out, h).transpose(1, 2).view_as(x)


def _time_embed(spec: Encoder) -> nn.Sequential:
    width = spec.embedding_channels
    return nn.Sequential(nn.Linear(spec.model_channels, width), nn.SiLU(), nn.Linear(width, width))


def _encoder(spec: Encoder) -> tuple[nn.ModuleList, list[int], int]:
    """Input blocks, the channels each leaves for its skip connection, the last down-sampling factor."""
    channels = int(spec.channel_mult[0] * spec.model_channels)
    blocks = [EmbeddedSequential(nn.Conv2d(spec.in_channels, channels, 3, padding=1))]
    skips, factor = [channels], 1
    for level, mult in enumerate(spec.channel_mult):
        for _ in range(spec.num_res_blocks):
            out = int(mult * spec.model_channels)
            layers: list[nn.Module] = [spec.res(channels, out)]
            channels = out
            if factor in spec.attention_downsamples:
                layers.append(spec.attention(channels))
            blocks.append(EmbeddedSequential(*layers))
            skips.append(channels)
        if level != len(spec.channel_mult) - 1:
            blocks.append(EmbeddedSequential(spec.down(channels)))
            skips.append(channels)
            factor *= 2
    return nn.ModuleList(blocks), skips, factor


def _middle(spec: Encoder, channels: int) -> EmbeddedSequential:
    return EmbeddedSequential(
        spec.res(channels, channels), spec.attention(channels), spec.res(channels, channels)
    )


class UNetModel(nn.Module):
    """The U-Net: (x_t, t, y) -> network output."""

    def __init__(
        self, spec: Encoder, out_channels: int, num_classes: int | None = None, num_heads_upsample: int = -1
    ) -> None:
        """Build the network with random weights.

        Args:
            spec: The encoder.
            out_channels: 3, or 6 with a learned sigma.
            num_classes: Number of labels; None without labels.
            num_heads_upsample: Attention heads in the decoder; -1: as many as in the encoder.
        """
        super().__init__()
        self.spec, self.num_classes, self.out_channels = spec, num_classes, out_channels
        self.time_embed = _time_embed(spec)
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, spec.embedding_channels)
        self.input_blocks, skips, factor = _encoder(spec)
        self.middle_block = _middle(spec, skips[-1])
        self.output_blocks = self._decoder(list(skips), factor, num_heads_upsample)
        first = int(spec.channel_mult[0] * spec.model_channels)
        self.out = nn.Sequential(
            spec.norm(first), nn.SiLU(), zero_module(nn.Conv2d(first, out_channels, 3, padding=1))
        )

    def _decoder(self, skips: list[int], factor: int, heads: int) -> nn.ModuleList:
        spec, channels = self.spec, skips[-1]
        blocks = []
        for level, mult in reversed(list(enumerate(spec.channel_mult))):
            for i in range(spec.num_res_blocks + 1):
                out = int(mult * spec.model_channels)
                layers: list[nn.Module] = [spec.res(channels + skips.pop(), out)]
                channels = out
                if factor in spec.attention_downsamples:
                    layers.append(spec.attention(channels, heads))
                if level and i == spec.num_res_blocks:
                    layers.append(spec.up(channels))
                    factor //= 2
                blocks.append(EmbeddedSequential(*layers))
        return nn.ModuleList(blocks)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the body's weights and features."""
        return next(self.input_blocks.parameters()).dtype

    @property
    def body(self) -> tuple[nn.Module, ...]:
        """The parts that may be in half precision, as in the published half-precision networks: all but the
        time embedding and the last layer."""
        return self.input_blocks, self.middle_block, self.output_blocks

    def _embed(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Embed times t (B, ...), and the label if there is one: (B, ..., E)."""
        embedding = timestep_embedding(t, self.spec.model_channels)
        emb = self.time_embed(embedding.to(next(self.time_embed.parameters()).dtype))
        if self.num_classes is not None:
            if y is None:
                raise ValueError("this network is class-conditional: give the labels y")
            emb = emb + self.label_emb(y).view(len(y), *[1] * (t.ndim - 1), -1)
        return emb.to(self.dtype)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the network's output, (B, out_channels, H, W).

        Args:
            x: (B, C_in, H, W).
            t: Training timesteps, possibly fractional: (B,); (1,) for all images, which is faster and
                independent of the batch to the bit; or one per pixel, (B, 1, H, W), as in TD-Paint
                (arXiv 2410.09306).
            y: Labels (B,); None without labels.
        """
        if t.ndim == 1:
            emb: Embedding = self._embed(t, y)
        else:
            emb = embed_time_map(lambda t: self._embed(t, y), t, len(self.spec.channel_mult))
        x, skips = x.to(self.dtype), []
        for block in self.input_blocks:
            x = block(x, emb)
            skips.append(x)
        x = self.middle_block(x, emb)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), emb)
        return in_float32(self.out, x)  # as in the published networks: rounding here would bias eps


class EncoderUNetModel(nn.Module):
    """The classifier of noisy images: (x_t, t) -> logits (B, out_channels)."""

    def __init__(self, spec: Encoder, image_size: int, out_channels: int, pool: str) -> None:
        """Build the classifier with random weights.

        Args:
            spec: The encoder.
            image_size: Side of the images, in pixels.
            out_channels: Number of classes.
            pool: adaptive, attention, spatial or spatial_v2, as in guided-diffusion.
        """
        super().__init__()
        self.spec, self.pool = spec, pool
        self.time_embed = _time_embed(spec)
        self.input_blocks, skips, factor = _encoder(spec)
        channels = skips[-1]
        self.middle_block = _middle(spec, channels)
        features = sum(skips) + channels
        heads: dict[str, Callable[[], Sequence[nn.Module]]] = {
            "adaptive": lambda: (
                spec.norm(channels),
                nn.SiLU(),
                nn.AdaptiveAvgPool2d((1, 1)),
                zero_module(nn.Conv2d(channels, out_channels, 1)),
                nn.Flatten(),
            ),
            "attention": lambda: (
                spec.norm(channels),
                nn.SiLU(),
                AttentionPool2d(image_size // factor, channels, spec.num_head_channels, out_channels),
            ),
            "spatial": lambda: (nn.Linear(features, 2048), nn.ReLU(), nn.Linear(2048, out_channels)),
            "spatial_v2": lambda: (
                nn.Linear(features, 2048),
                normalization(2048),
                nn.SiLU(),
                nn.Linear(2048, out_channels),
            ),
        }
        if pool not in heads:
            raise ValueError(f"classifier_pool {pool!r} is unknown; choose one of {', '.join(heads)}")
        self.out = nn.Sequential(*heads[pool]())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the logits (B, out_channels) for x (B, 3, H, W) and t (B,), or (1,) for all images."""
        emb = self.time_embed(timestep_embedding(t, self.spec.model_channels).to(x.dtype))
        pooled = []
        for block in self.input_blocks:
            x = block(x, emb)
            pooled.append(x)
        x = self.middle_block(x, emb)
        if self.pool.startswith("spatial"):
            return self.out(torch.cat([h.mean(dim=(2, 3)) for h in [*pooled, x]], dim=-1))
        return self.out(x)
