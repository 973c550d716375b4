"""Training of a prior: `python -m guided_diffusion.train --conf_path confs/train/scenes64.yml`.

Papers: Ho et al. 2020 (simple loss), Nichol & Dhariwal 2021 (learned variance, hybrid loss).
Resumes by itself: the same command after a kill goes on from the last saved interval, with the same
pictures, times and noises it would have drawn. Under torchrun each rank draws its own share of every batch.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm

from guided_diffusion import distributed, resample
from guided_diffusion.assembly import build_network, build_process
from guided_diffusion.codec import PixelCodec
from guided_diffusion.construct import ConfigError
from guided_diffusion.datasets import PictureFolder, SceneStream
from guided_diffusion.denoiser import Denoiser
from guided_diffusion.images import contact_sheet, write_picture
from guided_diffusion.operators import Nothing
from guided_diffusion.samplers.base import Noise, Problem, walk
from guided_diffusion.samplers.ddim import DDIM
from guided_diffusion.train_config import TrainConfig, load_train

COLUMNS = ["step", "pictures", "loss", "simple", "bound", "grad_norm", "lr", "seconds", "pictures_per_second"]


class EndlessOrder(Sampler[int]):
    """Indices from picture number `start` on, for one rank: all of `size` in a new order each epoch, or 0,
    1, 2 …

    size None means an endless source. Rank r of n takes every n-th index from r on.
    """

    def __init__(self, size: int | None, start: int, seed: int) -> None:
        self.size, self.start, self.seed = size, start, seed

    def __iter__(self) -> Iterator[int]:
        position = self.start + distributed.rank()
        epoch, order = -1, np.empty(0, dtype=np.int64)
        while True:
            if self.size is None:
                yield position
            else:
                wanted, place = divmod(position, self.size)
                if wanted != epoch:
                    epoch, order = wanted, np.random.default_rng([self.seed, wanted]).permutation(self.size)
                yield epoch * self.size + int(order[place])
            position += distributed.world_size()


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)


class Trainer:
    """Everything a run holds: network, its average (EMA), optimiser, and where it stands."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        torch.manual_seed(config.seed)
        self.network = build_network(config.model).to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        self.ema = build_network(config.model).to(device).requires_grad_(False).eval()
        self.ema.load_state_dict(self.network.state_dict())
        self.process, self.times = build_process(config.process)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.t_sampler = resample.SAMPLERS[config.schedule_sampler](self.process.num_timesteps)
        self.step, self.seconds = 0, 0.0
        self.totals = torch.zeros(
            4, device=device
        )  # loss, simple, bound, gradient norm since the last report
        self.folder = config.folder
        self.precision = "bf16" if config.bf16 and distributed.has_bf16(device) else "fp32"

    # where it stands

    @property
    def state_path(self) -> Path:
        return self.folder / "state.pt"

    def restore(self) -> None:
        """Go on from the last saved state, if there is one."""
        if not self.state_path.exists():
            return
        state = torch.load(self.state_path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.t_sampler.restore(state["t_sampler"])
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """State to go on from, and the averaged weights in half precision to sample with. Both atomic."""
        state = {
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "t_sampler": self.t_sampler.state(),
            "step": self.step,
            "seconds": self.seconds,
        }
        _save_atomically(state, self.state_path)
        half = {name: tensor.half().contiguous() for name, tensor in self.ema.state_dict().items()}
        _save_atomically(half, self.folder / f"{self.config.name}.pt")

    # one step

    def learning_rate(self) -> float:
        """Linear warm-up over warmup_steps, then linear to zero at lr_anneal_steps (0 = constant)."""
        config = self.config
        rate = config.lr * min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        return rate * (1 - self.step / config.lr_anneal_steps) if config.lr_anneal_steps else rate

    def _draws(self, count: int) -> tuple[Tensor, Tensor, torch.Generator]:
        """Times, weights and a noise generator that depend on (seed, step, rank) alone."""
        rng = np.random.default_rng([self.config.seed, self.step, distributed.rank()])
        t, weights = self.t_sampler.sample(count, rng)
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        return t.to(self.device), weights.to(self.device), generator

    def train_step(self, model: nn.Module, x0: Tensor) -> None:
        """One optimiser step on pictures x0 (B, 3, H, W) in [-1, 1], cut into micro-batches."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        t, weights, generator = self._draws(len(x0))
        noise = torch.randn(x0.shape, generator=generator, device=self.device)
        micro = self.config.microbatch or len(x0)
        losses = []
        for start in range(0, len(x0), micro):
            piece = slice(start, start + micro)
            sync = start + micro >= len(x0) or not isinstance(model, DistributedDataParallel)
            with nullcontext() if sync else model.no_sync():  # type: ignore[operator]
                share = len(x0[piece]) / len(x0)
                each, parts = self._backward(model, x0[piece], t[piece], weights[piece], noise[piece], share)
            losses.append(each)
            self.totals[:3] += parts
        self.t_sampler.update(t, torch.cat(losses))
        self.totals[3] += nn.utils.clip_grad_norm_(self.network.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._average()

    def report(self, steps: int) -> dict[str, float]:
        """Means over the last `steps` steps and all ranks; starts counting anew."""
        distributed.average([self.totals])
        loss, simple, bound, norm = (self.totals / steps).tolist()
        self.totals.zero_()
        return {"loss": loss, "simple": simple, "bound": bound, "grad_norm": norm, "lr": self.learning_rate()}

    def _backward(
        self, model: nn.Module, x0: Tensor, t: Tensor, weights: Tensor, noise: Tensor, share: float
    ) -> tuple[Tensor, Tensor]:
        simple, bound = self.denoiser(model).loss(x0, t, noise)
        scale = self.process.num_timesteps / 1000 if self.config.process.rescale_learned_sigmas else 1.0
        each = simple + scale * bound
        loss = (each * weights).mean() * share
        loss.backward()
        parts = torch.stack([each.mean(), simple.mean(), bound.mean()]).detach() * share
        return each.detach(), parts

    def denoiser(self, network: nn.Module) -> Denoiser:
        process = self.config.process
        return Denoiser(
            network,
            self.process,
            self.times.to(self.device),
            predict_xstart=process.predict_xstart,
            learn_sigma=self.config.model.learn_sigma,
            sigma_small=process.sigma_small,
            clip=False,
            precision=self.precision,
        )

    @torch.no_grad()
    def _average(self) -> None:
        """EMA with a warm-up, so that early averages do not remember the initialisation."""
        rate = min(self.config.ema_rate, (1 + self.step) / (10 + self.step))
        own: list[Tensor] = list(self.ema.parameters())
        new: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(own, new, 1 - rate)

    # what it looks like

    def sample_grid(self, rows: int = 4) -> None:
        """rows x rows samples of the averaged network by 50 DDIM steps, always from the same noise."""
        config = self.config
        short = type(config.process)(**{**vars(config.process), "timestep_respacing": "ddim50"})
        process, times = build_process(short)
        denoise = Denoiser(
            self.ema,
            process,
            times.to(self.device),
            predict_xstart=short.predict_xstart,
            learn_sigma=config.model.learn_sigma,
            precision=self.precision,
        )
        size = config.model.image_size
        generators = [torch.Generator(self.device).manual_seed(i) for i in range(rows * rows)]
        noise = Noise(generators, (3, size, size))
        problem = Problem(torch.zeros(1, device=self.device), Nothing(), denoise, process, noise)
        x = torch.zeros(0)
        for step in walk(DDIM(), problem):
            x = step.x
        pictures = list(PixelCodec().decode(x))
        grid = [pictures[i * rows : (i + 1) * rows] for i in range(rows)]
        write_picture(
            str(self.folder / "samples" / f"{self.step:06d}.png"),
            contact_sheet(grid, [""] * rows, None, 2 * size),
        )


def _save_atomically(content: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    torch.save(content, partial)
    os.replace(partial, path)


class LossLog:
    """A CSV of losses, one row per `log_interval` steps; rows after a restored step are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        rows = []
        if path.exists():
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        self.pictures = int(rows[-1]["pictures"]) if rows else 0
        self.last_seconds = float(rows[-1]["seconds"]) if rows else 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def add(self, trainer: Trainer, row: dict[str, float], pictures: int) -> None:
        """Append what `Trainer.report` gave; pictures: seen since the last row, over all ranks."""
        seconds = trainer.seconds - self.last_seconds
        self.pictures, self.last_seconds = self.pictures + pictures, trainer.seconds
        told = {
            "step": trainer.step,
            "pictures": self.pictures,
            **row,
            "seconds": trainer.seconds,
            "pictures_per_second": pictures / seconds,
        }
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow({key: f"{value:.8g}" for key, value in told.items()})


class Clock:
    """Seconds of training, those of earlier runs included."""

    def __init__(self, before: float) -> None:
        self.before, self.begin = before, time.monotonic()

    def since(self) -> float:
        return time.monotonic() - self.begin

    def total(self) -> float:
        return self.before + self.since()


def open_data(config: TrainConfig, start: int) -> Iterator[Tensor]:
    """Batches (batch_size, 3, S, S) in [-1, 1] for this rank, from picture number `start` on."""
    size = config.model.image_size
    data: SceneStream | PictureFolder
    if config.data_dir == "scenes":
        data = SceneStream(size, config.seed)
        order = EndlessOrder(None, start, config.seed)
    else:
        data = PictureFolder(config.data_dir, size, config.random_crop, config.random_flip, config.seed)
        order = EndlessOrder(len(data), start, config.seed)
    return iter(
        DataLoader(
            data,
            batch_size=config.batch_size,
            sampler=order,
            num_workers=config.workers,
            worker_init_fn=_one_thread,
            pin_memory=torch.cuda.is_available(),
        )
    )


def train(config: TrainConfig, device: torch.device, minutes: float | None = None) -> None:
    """Train until `iterations` steps are done, or cleanly stop (state saved) after `minutes`."""
    trainer = Trainer(config, device)
    trainer.restore()
    ranks, leader = distributed.world_size(), distributed.rank() == 0
    model: nn.Module = DistributedDataParallel(trainer.network) if ranks > 1 else trainer.network
    log = LossLog(trainer.folder / "loss.csv", trainer.step) if leader else None
    data = open_data(config, trainer.step * config.batch_size * ranks)
    clock = Clock(trainer.seconds)
    bar = tqdm(
        total=config.iterations, initial=trainer.step, disable=not leader, desc=config.name, unit="step"
    )
    reported = trainer.step
    while trainer.step < config.iterations:
        trainer.train_step(model, next(data).to(device, non_blocking=True))
        bar.update()
        trainer.seconds = clock.total()
        if trainer.step % config.log_interval == 0:
            row = trainer.report(trainer.step - reported)
            if log is not None:
                log.add(trainer, row, (trainer.step - reported) * config.batch_size * ranks)
            bar.set_postfix(loss=f"{row['loss']:.4f}")
            reported = trainer.step
        late = minutes is not None and clock.since() > 60 * minutes
        if leader and (late or trainer.step % config.save_interval == 0 or trainer.step == config.iterations):
            trainer.save()
            trainer.sample_grid()
        if late:
            break
    bar.close()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m guided_diffusion.train", description="Train a diffusion prior."
    )
    parser.add_argument("--conf_path", required=True, help="a YAML such as confs/train/scenes64.yml")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the YAML")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--minutes", type=float, help="stop cleanly after so many minutes; run again to go on"
    )
    options = parser.parse_args(arguments)
    try:
        config = load_train(options.conf_path, options.set)
        device = distributed.find_device(options.device)
    except (ConfigError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    distributed.setup(device)
    try:
        train(config, device, options.minutes)
    finally:
        distributed.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
