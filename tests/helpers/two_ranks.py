"""One rank of a run under torchrun: `torchrun --nproc_per_node=2 -m tests.two_ranks YAML FOLDER`.

Rank 1 alone wants to stop, from step 7 on. Each rank writes down its weights and the images it drew.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from guided_diffusion import train
from guided_diffusion.runtime import distributed
from guided_diffusion.training import trainer
from guided_diffusion.training.config import load_train


class Recording(trainer.Trainer):
    drawn: list[torch.Tensor] = []

    def train_step(self, model: torch.nn.Module, x0: torch.Tensor) -> None:
        self.drawn.append(x0.clone())
        super().train_step(model, x0)


def main(conf: str, folder: str) -> None:
    distributed.setup(torch.device("cpu"))
    rank = distributed.rank()
    train.Trainer = Recording  # type: ignore[misc]
    asked: list[int] = []

    def stop() -> bool:
        asked.append(len(Recording.drawn))
        return rank == 1 and len(Recording.drawn) >= 7

    run = train.train(load_train(conf), torch.device("cpu"), stop)
    content = {"weights": run.network.state_dict(), "drawn": torch.cat(run.drawn), "step": run.step}
    torch.save(content, Path(folder) / f"rank{rank}.pt")
    distributed.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
