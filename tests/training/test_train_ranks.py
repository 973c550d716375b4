"""Training under torchrun: several ranks, and a stop that all of them follow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.training import (
    encoded_scene,
    read_losses,
    read_state,
    run_train,
    write_yaml,
)

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(*arguments: str) -> subprocess.CompletedProcess:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *launcher, *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_train_runs_under_torchrun(tmp_path: Path) -> None:
    conf = write_yaml(tmp_path, iterations=4, log_interval=1, microbatch=1, schedule_sampler="loss-aware")
    done = torchrun("-m", "guided_diffusion.train", "--conf_path", str(conf), "--device", "cpu")
    assert done.stdout == f"4 of 4 steps are done and saved in {tmp_path}/out\n"
    assert [(row["step"], row["images"]) for row in read_losses(tmp_path)] == [
        (str(step), str(4 * step)) for step in range(1, 5)
    ]


@pytest.mark.slow
def test_ranks_stop_together_with_equal_weights(tmp_path: Path) -> None:
    assert run_train(tmp_path, iterations=4) == 0
    conf = write_yaml(tmp_path, iterations=100, microbatch=1, schedule_sampler="loss-aware")
    torchrun("-m", "tests.helpers.two_ranks", str(conf), str(tmp_path))
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    # Seven steps after the fourth, rank 1 wants to stop; both do when they next ask each other.
    assert first["step"] == second["step"] == read_state(tmp_path)["step"] == 20
    assert all(torch.equal(first["weights"][key], second["weights"][key]) for key in first["weights"])
    for rank, drawn in enumerate((first["drawn"], second["drawn"])):
        scenes = [encoded_scene(i, 16, 0) for i in range(16 + rank, 80, 2)]
        assert torch.equal(drawn, torch.stack(scenes))
