"""One training run: the network, its average, the optimiser, where it stands, and the step.

Papers: Ho et al. 2020 (arXiv 2006.11239; simple loss), Nichol & Dhariwal 2021 (arXiv 2102.09672; learned
variance, hybrid loss), Mayet et al. 2024 (arXiv 2410.09306; clean pixels beside noisy ones, per_pixel_time).
Where we differ: the average (EMA) has a warm-up, and a step's times, noises and clean pixels hang on (seed,
step, rank) alone, so that a run that was killed ends with the same weights as one that was not.
"""

from __future__ import annotations

import io
import math
import pickle
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from guided_diffusion.build import build_network, build_process
from guided_diffusion.checkpoints import State, infer_config, load
from guided_diffusion.denoiser import Denoiser
from guided_diffusion.errors import CheckpointError, ConfigError, TrainingError
from guided_diffusion.images.files import write_bytes
from guided_diffusion.losses import time_weights
from guided_diffusion.runtime import distributed
from guided_diffusion.runtime.cpu_kernels import use_faster_layers
from guided_diffusion.runtime.device import has_bf16
from guided_diffusion.runtime.inference import place_network
from guided_diffusion.training import resample
from guided_diffusion.training.clean_pixels import draw_known
from guided_diffusion.training.config import TrainConfig
from guided_diffusion.training.run_cost import Row, count_flops

Losses: TypeAlias = "Callable[[slice], tuple[Tensor, Tensor, Tensor]]"
"""Piece of the batch -> (what is minimised, its two parts), each (B,)."""


class Trainer:
    """Everything a run holds.

    step: optimiser steps done; totals: sums of loss, its two parts and gradient norm over the last `counted`
    steps, that is since the last report. slices: figures of the runs of the command up to this one, as
    they are to be saved. Raises ConfigError for a process that cannot be.
    """

    parts: ClassVar[tuple[str, str]] = ("simple", "bound")

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        try:
            self.process, times = build_process(config.process)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self.times = times.to(device)
        alpha_bar = torch.from_numpy(self.process.alphas_cumprod)
        self.time_weights = time_weights(config.loss_weighting, alpha_bar).float().to(device)
        torch.manual_seed(config.seed)
        self.network = place_network(self.build(), device, "fp32")
        self.ema = use_faster_layers(self.build().to(device)).requires_grad_(False).eval()
        self.ema.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.t_sampler = resample.SAMPLERS[config.schedule_sampler](self.process.num_timesteps)
        self.step, self.counted = 0, 0
        self.slices: list[Row] = []
        self.totals = torch.zeros(4, device=device)
        self.precision = "bf16" if config.bf16 and has_bf16(device) else "fp32"
        self._begin = time.monotonic()

    def build(self) -> nn.Module:
        """The network, freshly initialised. Raises ConfigError for settings that describe none."""
        try:
            return build_network(self.config.model)
        except ValueError as error:
            raise ConfigError(f"these settings describe no network: {error}") from None

    def example(self) -> tuple[Tensor, ...]:
        """What the network sees of a batch: shapes alone, on torch's default device."""
        size, model = self.config.batch_size, self.config.model
        side = model.image_size
        times = torch.zeros(size, 1, side, side) if model.per_pixel_time else torch.zeros(size)
        return torch.empty(size, 3, side, side), times

    def step_flops(self) -> int:
        """Floating-point operations of a step of this rank: its batch forward and backward."""
        with torch.device("meta"):
            return count_flops(self.build(), self.example())

    @property
    def autocast(self) -> torch.dtype | None:
        """The type to which torch narrows the arithmetic."""
        return torch.bfloat16 if self.precision == "bf16" else None

    # where it stands

    @property
    def state_path(self) -> Path:
        return self.config.folder / "state.pt"

    @property
    def seconds(self) -> float:
        """Seconds of training, those of earlier runs included."""
        return time.monotonic() - self._begin

    def save(self) -> None:
        """Averaged weights in half precision to sample with, then the state to go on from. All ranks call it.

        The state comes last: whoever is killed in between goes on from the one before and writes both anew.
        """
        distributed.average([self.totals])  # the leader's file speaks for all ranks
        if not distributed.is_leader():
            return
        half = {name: tensor.half().contiguous() for name, tensor in self.ema.state_dict().items()}
        _save(half, self.config.folder / f"{self.config.name}.pt")
        compact, optimizer = self.config.compact_state, self.optimizer.state_dict()
        state = {
            "network": self.network.state_dict(),
            "ema": half if compact else self.ema.state_dict(),
            "optimizer": _rounded(optimizer) if compact else optimizer,
            "t_sampler": self.t_sampler.state(),
            "step": self.step,
            "seconds": self.seconds,
            "totals": self.totals,
            "counted": self.counted,
            "slices": self.slices,
        }
        _save(state, self.state_path)

    def restore(self) -> None:
        """Go on from the last saved state; if there is none, begin with the weights of `start_from`.

        Raises CheckpointError if they cannot be used.
        """
        if not self.state_path.exists():
            self._begin_with(self.config.start_from)
            return
        state = self._read_state()
        try:
            self.network.load_state_dict(state["network"])
            self.t_sampler.restore(state["t_sampler"])
        except RuntimeError:
            raise CheckpointError(self._misfit(state["network"])) from None
        except ValueError as error:
            raise CheckpointError(f"{self.state_path}: {error}, or give the run another name") from None
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.config.weight_decay  # the YAML may have changed since
        self.step, self._begin = state["step"], time.monotonic() - state["seconds"]
        self.totals = state.get("totals", self.totals).to(self.device)
        self.counted = state.get("counted", 0)
        self.slices = state.get("slices", [])

    def _begin_with(self, path: str | None) -> None:
        if path is not None:
            try:
                weights = load(self.build(), path, self.config.model.image_size).state_dict()
            except CheckpointError as error:
                raise CheckpointError(f"start_from: {error}") from None
            self.network.load_state_dict(weights)
            self.ema.load_state_dict(weights)

    def _read_state(self) -> dict[str, Any]:
        try:
            # On the CPU: AdamW counts steps there and would wait for a GPU's counters at every step. All else
            # is copied to where it belongs.
            return torch.load(self.state_path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            reason = str(error).strip().split("\n")[0][:160]
            raise CheckpointError(
                f"{self.state_path} cannot be read ({reason}); put a copy back, or delete it to begin anew"
            ) from error

    def _misfit(self, saved: State) -> str:
        size = self.config.model.image_size
        ours, theirs = infer_config(self.network.state_dict(), size), infer_config(saved, size)
        changed = ", ".join(f"{key}: {value!r}" for key, value in theirs.items() if value != ours.get(key))
        return (
            f"the state in {self.config.folder} is of another network; set {changed or 'its keys'} again, "
            "or give the run another name to begin anew"
        )

    # one step

    def learning_rate(self) -> float:
        """Linear warm-up over warmup_steps, then linear to zero at lr_anneal_steps (0 = constant)."""
        config = self.config
        rate = config.lr * min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        return rate * (1 - self.step / config.lr_anneal_steps) if config.lr_anneal_steps else rate

    def train_step(self, model: nn.Module, x0: Tensor) -> None:
        """One optimiser step on images x0 (B, 3, H, W) in [-1, 1].

        model: the network, or the network wrapped for several ranks, each of which brings its own x0.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self._learn(model, x0)
        self.totals[3] += nn.utils.clip_grad_norm_(self.network.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step, self.counted = self.step + 1, self.counted + 1
        self._average()

    def _learn(self, model: nn.Module, x0: Tensor) -> None:
        """Gradients of the step's loss."""
        t, weights, noise, known = self._draws(x0)
        self.t_sampler.update(t, self.accumulate(model, x0, t, weights, noise, known))

    def _draws(self, x0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Times (B,), weights (B,), noise (B, 3, H, W), and with per_pixel_time what is clean (B, 1, H, W);
        they depend on (seed, step, rank) alone."""
        rng = np.random.default_rng([self.config.seed, self.step, distributed.rank()])
        t, weights = self.t_sampler.sample(len(x0), rng)
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        torch.manual_seed(int(rng.integers(2**62)))  # dropout draws from torch's own generators
        noise = torch.randn(x0.shape, generator=generator, device=self.device)
        known = None
        if self.config.model.per_pixel_time:
            known = torch.from_numpy(draw_known(len(x0), x0.shape[-1], rng)).float().to(self.device)
        return t.to(self.device), weights.to(self.device), noise, known

    def accumulate(
        self,
        model: nn.Module,
        x0: Tensor,
        t: Tensor,
        weights: Tensor,
        noise: Tensor,
        known: Tensor | None = None,
    ) -> Tensor:
        """Add to the gradients those of the mean weighted loss, `microbatch` images at a time.

        Returns the losses (B,) without `weights`. The arguments are those of Denoiser.loss; all but its bound
        are weighted over times, in what is minimised and not in what is reported of it.
        """

        def losses(piece: slice) -> tuple[Tensor, Tensor, Tensor]:
            clean, times, coarse = None if known is None else known[piece], t[piece], self.config.coarse
            simple, bound, rough = self.denoiser(model).loss(x0[piece], times, noise[piece], clean, coarse)
            return self.time_weights[times] * (simple + rough) + self._bound_scale * bound, simple, bound

        return self.backward(model, weights, losses)

    def backward(self, model: nn.Module, weights: Tensor, losses: Losses) -> Tensor:
        """Add to the gradients those of the mean of `losses`' first part, weighted, in microbatches.

        Returns that part (B,) without weights. Ranks exchange gradients in the last backward pass only.
        """
        size = len(weights)
        micro, kept = self.config.microbatch or size, []
        for start in range(0, size, micro):
            piece = slice(start, start + micro)
            quiet = start + micro < size and isinstance(model, DistributedDataParallel)
            with model.no_sync() if quiet else nullcontext():  # type: ignore[operator]
                each = torch.stack(losses(piece))
                parts = (each * weights[piece]).sum(1) / size
                parts[0].backward()
            kept.append(each[0].detach())
            self.totals[:3] += parts.detach()
        return torch.cat(kept)

    @property
    def _bound_scale(self) -> float:
        return self.process.num_timesteps / 1000 if self.config.process.rescale_learned_sigmas else 1.0

    def denoiser(self, network: nn.Module) -> Denoiser:
        """The network as the training loss reads it."""
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

    @torch.no_grad()
    def _average(self) -> None:
        """EMA with a warm-up, so that early averages do not remember the initialisation."""
        rate = min(self.config.ema_rate, (1 + self.step) / (10 + self.step))
        own: list[Tensor] = list(self.ema.parameters())
        new: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(own, new, 1 - rate)

    # what to tell

    def check(self) -> None:
        """Raises TrainingError if the gradients since the last report were not all finite.

        Their norm is the same on all ranks, so all raise or none.
        """
        if not math.isfinite(self.totals[3].item()):
            raise TrainingError(
                f"the loss is no longer finite between steps {self.step - self.counted} and {self.step}; the "
                f"state saved before is kept in {self.config.folder}: lower lr, lengthen warmup_steps or set "
                "bf16: false, and run again"
            )

    def report(self) -> dict[str, float]:
        """Means over the steps since the last report and over all ranks, and the lr; starts counting anew."""
        distributed.average([self.totals])
        means = (self.totals / max(1, self.counted)).tolist()
        self.totals.zero_()
        self.counted = 0
        names = ("loss", *self.parts, "grad_norm")
        return {**dict(zip(names, means, strict=True)), "lr": self.learning_rate()}


def _rounded(optimizer: dict[str, Any]) -> dict[str, Any]:
    """The state of an AdamW with its moments in bfloat16; loading it widens them again."""
    moments = {
        index: {name: value.bfloat16() if value.ndim else value for name, value in own.items()}
        for index, own in optimizer["state"].items()
    }
    return {**optimizer, "state": moments}


def _save(content: dict[str, Any], path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())
