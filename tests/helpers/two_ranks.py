"""One rank of a run under torchrun: `torchrun --nproc_per_node=2 -m tests.helpers.two_ranks YAML FOLDER`.

Rank 1 alone wants to stop, from step 7 on. Each rank writes its weights and the images that it drew.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from guided_diffusion import train
from guided_diffusion.runtime import distributed
from guided_diffusion.training.config import load_train
from guided_diffusion.training.prior_trainer import PriorTrainer
from guided_diffusion.training.tasks import TRAINERS


class RecordingTrainer(PriorTrainer):
    """A PriorTrainer that remembers its batches."""

    batches: list[torch.Tensor] = []

    def train_step(self, model: torch.nn.Module, batch: torch.Tensor) -> None:
        self.batches.append(batch.clone())
        super().train_step(model, batch)


def main(conf: str, folder: str) -> None:
    """Train until rank 1 wants to stop, and write FOLDER/rank<N>.pt."""
    distributed.setup(torch.device("cpu"))
    rank = distributed.rank()
    TRAINERS["prior"] = RecordingTrainer

    def stop() -> bool:
        return rank == 1 and len(RecordingTrainer.batches) >= 7

    run = train.train(load_train(conf), torch.device("cpu"), stop)
    drawn = torch.cat(RecordingTrainer.batches)
    content = {"weights": run.network.state_dict(), "drawn": drawn, "step": run.step}
    torch.save(content, Path(folder) / f"rank{rank}.pt")
    distributed.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
