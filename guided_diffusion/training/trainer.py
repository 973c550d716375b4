"""State of a training run: network, weight average, optimiser, progress; saving, restoring, one step.

Where we differ from guided-diffusion: the average (EMA) has a warm-up, and all random numbers of a step
depend only on (seed, step, rank). A run that was killed and resumed therefore ends with the same weights as
one that was not.
"""

from __future__ import annotations

import io
import math
import pickle
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from guided_diffusion.checkpoints import State, infer_config, load
from guided_diffusion.codec import Codec
from guided_diffusion.errors import CheckpointError, TrainingError
from guided_diffusion.images.files import write_bytes
from guided_diffusion.runtime import distributed
from guided_diffusion.runtime.cpu_kernels import use_faster_layers
from guided_diffusion.runtime.device import has_bf16
from guided_diffusion.runtime.inference import place_network
from guided_diffusion.training.config import TrainConfig
from guided_diffusion.training.run_cost import CostRow, count_flops, current_row

Losses: TypeAlias = "Callable[[slice], tuple[Tensor, Tensor, Tensor]]"
"""Chunk of the batch -> (loss to minimise, its two reported terms), each (B,)."""


class Trainer(ABC):
    """A training run. Subclasses say which network learns what: see PriorTrainer and SupervisedTrainer.

    Attributes:
        network: the network that is trained, on `device`.
        ema: its average, which is what gets used afterwards.
        step: optimiser steps done.
        steps_in_totals: steps since the last report.
        totals: sums over those steps of the loss, its two terms and the gradient norm, (4,).
        cost_rows: cost of each run of the command so far, the present one included once it is saved.
        precision: bf16 | fp32, the type of the arithmetic.
    """

    loss_names: ClassVar[tuple[str, str]]
    """Names of the two reported terms of the loss: columns of loss.csv."""

    def __init__(self, config: TrainConfig, device: torch.device, codec: Codec) -> None:
        """codec: converts between uint8 images and the space that the network works in."""
        self.config, self.device, self.codec = config, device, codec
        torch.manual_seed(config.seed)
        self.network = place_network(self.build(), device, "fp32")
        self.ema = use_faster_layers(self.build().to(device)).requires_grad_(False).eval()
        self.ema.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.step, self.steps_in_totals = 0, 0
        self.cost_rows: list[CostRow] = []
        self.totals = torch.zeros(4, device=device)
        self.precision = "bf16" if config.bf16 and has_bf16(device) else "fp32"
        self._begin = time.monotonic()

    # what a subclass defines

    @classmethod
    @abstractmethod
    def open_source(cls, config: TrainConfig, codec: Codec) -> Dataset[Tensor]:
        """The training data; a batch of its items is what `train_step` takes. Raises DatasetError."""

    @abstractmethod
    def build(self) -> nn.Module:
        """A freshly initialised network. Raises ConfigError for settings that describe none."""

    @abstractmethod
    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of the network for one batch: only their shapes matter. On torch's default device."""

    @abstractmethod
    def compute_gradients(self, model: nn.Module, batch: Tensor) -> None:
        """Add the gradients of this step's loss on a batch; see `train_step` for the arguments."""

    @abstractmethod
    def grid(self) -> np.ndarray:
        """An image that shows how well the averaged network works by now: uint8 (H, W, 3)."""

    @abstractmethod
    def sampler_state(self) -> dict[str, Tensor]:
        """State of the timestep sampler; empty where there is none."""

    @abstractmethod
    def restore_sampler(self, state: dict[str, Tensor]) -> None:
        """Take back what `sampler_state` gave. Raises ValueError if it does not fit."""

    # facts about the run

    def step_flops(self) -> int:
        """Floating-point operations of one step of this rank: its batch forward and backward."""
        with torch.device("meta"):
            return count_flops(self.build(), self.example_inputs())

    @property
    def autocast(self) -> torch.dtype | None:
        """The type that torch's autocast uses; None = no autocast."""
        return torch.bfloat16 if self.precision == "bf16" else None

    @property
    def state_path(self) -> Path:
        """The file that a run resumes from."""
        return self.config.folder / "state.pt"

    @property
    def seconds(self) -> float:
        """Seconds of training, including earlier runs of the command."""
        return time.monotonic() - self._begin

    # saving and restoring

    def save(self) -> None:
        """Write the averaged weights in half precision, then the state to resume from. All ranks call it.

        The state comes last: a run that is killed in between resumes from the state before and writes both
        files again.
        """
        distributed.average([self.totals])  # the leader's file speaks for all ranks
        if not distributed.is_leader():
            return
        half = {name: tensor.half().contiguous() for name, tensor in self.ema.state_dict().items()}
        _save(half, self.config.folder / f"{self.config.name}.pt")
        compact, optimizer = self.config.compact_state, self.optimizer.state_dict()
        state = {  # the keys are a file format: runs that were begun by earlier versions must resume
            "network": self.network.state_dict(),
            "ema": half if compact else self.ema.state_dict(),
            "optimizer": _compact_moments(optimizer) if compact else optimizer,
            "t_sampler": self.sampler_state(),
            "step": self.step,
            "seconds": self.seconds,
            "totals": self.totals,
            "counted": self.steps_in_totals,
            "slices": self.cost_rows,
        }
        _save(state, self.state_path)

    def restore(self) -> None:
        """Resume from the saved state; without one, start with the weights of `start_from`.

        Raises CheckpointError if they cannot be used.
        """
        if not self.state_path.exists():
            self._load_initial_weights(self.config.start_from)
            return
        state = self._read_state()
        try:
            self.network.load_state_dict(state["network"])
            self.restore_sampler(state["t_sampler"])
        except RuntimeError:
            raise CheckpointError(self._describe_mismatch(state["network"])) from None
        except ValueError as error:
            raise CheckpointError(f"{self.state_path}: {error}, or give the run another name") from None
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.config.weight_decay  # the YAML may have changed since
        self.step, self._begin = state["step"], time.monotonic() - state["seconds"]
        self.totals = state.get("totals", self.totals).to(self.device)
        self.steps_in_totals = state.get("counted", 0)
        self.cost_rows = [current_row(row) for row in state.get("slices", [])]

    def _load_initial_weights(self, path: str | None) -> None:
        if path is not None:
            try:
                weights = load(self.build(), path, self.config.image_size).state_dict()
            except CheckpointError as error:
                raise CheckpointError(f"start_from: {error}") from None
            self.network.load_state_dict(weights)
            self.ema.load_state_dict(weights)

    def _read_state(self) -> dict[str, Any]:
        try:
            # On the CPU: AdamW keeps its step counters where they were loaded; on a GPU each step would wait
            # for them. Everything else is copied to its device afterwards.
            return torch.load(self.state_path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            reason = str(error).strip().split("\n")[0][:160]
            raise CheckpointError(
                f"{self.state_path} cannot be read ({reason}); put a copy back, or delete it to begin anew"
            ) from error

    def _describe_mismatch(self, saved: State) -> str:
        size = self.config.image_size
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

    def train_step(self, model: nn.Module, batch: Tensor) -> None:
        """Do one optimiser step.

        Args:
            model: the network, or its DistributedDataParallel wrapper if there are several ranks.
            batch: items of `open_source`, stacked, on the trainer's device. Each rank brings its own.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.compute_gradients(model, batch)
        self.totals[3] += nn.utils.clip_grad_norm_(self.network.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step, self.steps_in_totals = self.step + 1, self.steps_in_totals + 1
        self._update_ema()

    def backward(self, model: nn.Module, weights: Tensor, losses: Losses) -> Tensor:
        """Add the gradients of the weighted mean loss, `microbatch` images at a time.

        Ranks exchange gradients in the last backward pass only.

        Args:
            model: as for `train_step`.
            weights: weight of each image's loss, (B,).
            losses: called for each chunk of the batch.

        Returns:
            The loss of each image without its weight, (B,).
        """
        size = len(weights)
        micro, minimised = self.config.microbatch or size, []
        for start in range(0, size, micro):
            chunk = slice(start, start + micro)
            skip_exchange = start + micro < size and isinstance(model, DistributedDataParallel)
            with model.no_sync() if skip_exchange else nullcontext():  # type: ignore[operator]
                terms = torch.stack(losses(chunk))  # (3, B)
                means = (terms * weights[chunk]).sum(1) / size
                means[0].backward()
            minimised.append(terms[0].detach())
            self.totals[:3] += means.detach()
        return torch.cat(minimised)

    @torch.no_grad()
    def _update_ema(self) -> None:
        """Exponential moving average with a warm-up, so that it forgets the initialisation quickly."""
        rate = min(self.config.ema_rate, (1 + self.step) / (10 + self.step))
        averages: list[Tensor] = list(self.ema.parameters())
        weights: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(averages, weights, 1 - rate)

    # reporting

    def check_finite(self) -> None:
        """Raise TrainingError if a gradient since the last report was not finite.

        The norm is the same on all ranks, so either all raise or none.
        """
        if not math.isfinite(self.totals[3].item()):
            raise TrainingError(
                f"the loss is no longer finite between steps {self.step - self.steps_in_totals} and "
                f"{self.step}; the state saved before is kept in {self.config.folder}: lower lr, lengthen "
                "warmup_steps or set bf16: false, and run again"
            )

    def report(self) -> dict[str, float]:
        """Means over the steps since the last report and over all ranks, and the lr; starts a new count."""
        distributed.average([self.totals])
        means = (self.totals / max(1, self.steps_in_totals)).tolist()
        self.totals.zero_()
        self.steps_in_totals = 0
        names = ("loss", *self.loss_names, "grad_norm")
        return {**dict(zip(names, means, strict=True)), "lr": self.learning_rate()}


def _compact_moments(optimizer: dict[str, Any]) -> dict[str, Any]:
    """State of an AdamW with its moments in bfloat16; loading it widens them again."""
    moments = {
        index: {name: value.bfloat16() if value.ndim else value for name, value in values.items()}
        for index, values in optimizer["state"].items()
    }
    return {**optimizer, "state": moments}


def _save(content: dict[str, Any], path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())
