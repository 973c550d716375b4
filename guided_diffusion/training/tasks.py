"""The training tasks: for each value of the key `task`, the class that runs it.

A new task needs a Trainer, one line here and one in `config.TASK_RULES` with its checks.
"""

from __future__ import annotations

from guided_diffusion.training.classifier_trainer import ClassifierTrainer
from guided_diffusion.training.detector_trainer import DetectorTrainer
from guided_diffusion.training.prior_trainer import PriorTrainer
from guided_diffusion.training.trainer import Trainer

TRAINERS: dict[str, type[Trainer]] = {
    "prior": PriorTrainer,
    "detect": DetectorTrainer,
    "classify": ClassifierTrainer,
}
