"""Training of a diffusion prior: the process, the timesteps, the noise, the hybrid loss, sample grids.

Papers: Ho et al. 2020 (arXiv 2006.11239; simple loss), Nichol & Dhariwal 2021 (arXiv 2102.09672; learned
variance, hybrid loss), Mayet et al. 2024 (arXiv 2410.09306; clean pixels beside noisy ones, per_pixel_time).
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from guided_diffusion.build import build_network, build_process
from guided_diffusion.codec import Codec
from guided_diffusion.denoiser import Denoiser
from guided_diffusion.errors import ConfigError
from guided_diffusion.images.contact_sheet import contact_sheet
from guided_diffusion.losses import time_weights
from guided_diffusion.operators import NoObservation
from guided_diffusion.runtime import distributed
from guided_diffusion.samplers.base import Noise, Problem, sample
from guided_diffusion.samplers.ddpm import DDPM
from guided_diffusion.training import resample
from guided_diffusion.training.clean_pixels import draw_clean_masks
from guided_diffusion.training.config import TrainConfig
from guided_diffusion.training.data import open_source
from guided_diffusion.training.trainer import Trainer

_GRID_STEPS = 50  # sampling steps of a grid


class PriorTrainer(Trainer):
    """Training run of a diffusion prior. A batch is encoded images, (B, C, S, S) in model space."""

    loss_names: ClassVar[tuple[str, str]] = ("simple", "bound")

    def __init__(self, config: TrainConfig, device: torch.device, codec: Codec) -> None:
        """Raise ConfigError for a process or network that cannot be built."""
        try:
            self.process, times = build_process(config.process)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self.times = times.to(device)
        alpha_bar = torch.from_numpy(self.process.alphas_cumprod)
        self.time_weights = time_weights(config.loss_weighting, alpha_bar).float().to(device)
        self.t_sampler = resample.SAMPLERS[config.schedule_sampler](self.process.num_timesteps)
        super().__init__(config, device, codec)

    @classmethod
    def open_source(cls, config: TrainConfig, codec: Codec) -> Dataset[Tensor]:
        return open_source(config, codec)

    def build(self) -> nn.Module:
        try:
            return build_network(self.config.model, self.codec.channels)
        except ValueError as error:
            raise ConfigError(f"these settings describe no network: {error}") from None

    def example_inputs(self) -> tuple[Tensor, ...]:
        size, side = self.config.batch_size, self.config.model.image_size
        per_pixel = self.config.model.per_pixel_time
        times = torch.zeros(size, 1, side, side) if per_pixel else torch.zeros(size)
        return torch.empty(size, self.codec.channels, side, side), times

    def sampler_state(self) -> dict[str, Tensor]:
        return self.t_sampler.state()

    def restore_sampler(self, state: dict[str, Tensor]) -> None:
        self.t_sampler.restore(state)

    def denoiser(self, network: nn.Module) -> Denoiser:
        """A denoiser around the network, as the training loss reads it."""
        process = self.config.process
        return Denoiser(
            network,
            self.process,
            self.times,
            predict_xstart=process.predict_xstart,
            learn_sigma=self.config.model.learn_sigma,
            sigma_small=process.sigma_small,
            clip=False,
            autocast=self.autocast,
        )

    def compute_gradients(self, model: nn.Module, batch: Tensor) -> None:
        t, weights, noise, clean_mask = self.draw(batch)
        self.t_sampler.update(t, self.accumulate(model, batch, t, weights, noise, clean_mask))

    def draw(self, x0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Random numbers of this step for images x0 (B, C, S, S); they depend on (seed, step, rank) alone.

        Returns:
            Timesteps (B,), their weights (B,), noise (B, C, S, S) and, with per_pixel_time, the mask of clean
            pixels (B, 1, S, S), else None. Also seeds torch's generators, which dropout draws from.
        """
        rng = np.random.default_rng([self.config.seed, self.step, distributed.rank()])
        t, weights = self.t_sampler.sample(len(x0), rng)
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        torch.manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(x0.shape, generator=generator, device=self.device)
        clean_mask = None
        if self.config.model.per_pixel_time:
            masks = draw_clean_masks(len(x0), x0.shape[-1], rng)
            clean_mask = torch.from_numpy(masks).float().to(self.device)
        return t.to(self.device), weights.to(self.device), noise, clean_mask

    def accumulate(
        self,
        model: nn.Module,
        x0: Tensor,
        t: Tensor,
        weights: Tensor,
        noise: Tensor,
        clean_mask: Tensor | None = None,
    ) -> Tensor:
        """Add the gradients of the mean weighted loss, `microbatch` images at a time.

        `loss_weighting` and `loss_factors` change what is minimised, not the reported simple loss and bound.

        Args:
            model: the network or its DistributedDataParallel wrapper.
            x0, t, noise, clean_mask: arguments of Denoiser.loss.
            weights: weight of each image's loss, (B,).

        Returns:
            The loss of each image without its weight, (B,).
        """

        def losses(chunk: slice) -> tuple[Tensor, Tensor, Tensor]:
            clean, times = None if clean_mask is None else clean_mask[chunk], t[chunk]
            terms = self.denoiser(model).loss(
                x0[chunk], times, noise[chunk], clean, self.config.coarse_factors
            )
            simple, bound, coarse = terms
            return self.time_weights[times] * (simple + coarse) + self._bound_scale * bound, simple, bound

        return self.backward(model, weights, losses)

    @property
    def _bound_scale(self) -> float:
        return self.process.num_timesteps / 1000 if self.config.process.rescale_learned_sigmas else 1.0

    def grid(self, rows: int = 4) -> np.ndarray:
        """rows x rows DDPM samples of the averaged network, always from the same noise: uint8 (H, W, 3)."""
        side = self.config.model.image_size
        generators = [torch.Generator(self.device).manual_seed(i) for i in range(rows * rows)]
        images = list(self._sample(Noise(generators, (self.codec.channels, side, side))))
        cells = [images[i * rows : (i + 1) * rows] for i in range(rows)]
        return contact_sheet(cells, [], None, max(side * self.codec.factor, 128))

    def _sample(self, noise: Noise) -> np.ndarray:
        """Plain generation with the averaged network: uint8 (B, H, W, 3)."""
        config = self.config
        steps = min(_GRID_STEPS, config.process.diffusion_steps)
        process, times = build_process(replace(config.process, timestep_respacing=str(steps)))
        denoise = Denoiser(
            self.ema,
            process,
            times.to(self.device),
            predict_xstart=config.process.predict_xstart,
            learn_sigma=config.model.learn_sigma,
            autocast=self.autocast,
        )
        y, x = torch.zeros(1, device=self.device), torch.zeros(0)
        for step in sample(DDPM(), Problem(y, NoObservation(), denoise, process, noise)):
            x = step.x
        return self.codec.decode(x)
