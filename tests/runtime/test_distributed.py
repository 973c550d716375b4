"""Tests of runtime/distributed.py: launch, process group, devices of ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from guided_diffusion import train
from guided_diffusion.errors import DeviceError, LaunchError
from guided_diffusion.runtime import distributed
from guided_diffusion.runtime.distributed import find_device

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")

# Runs once for each rank, in its own process.
RANK_PROGRAM = """
import sys
from pathlib import Path
import torch
from guided_diffusion.runtime import distributed
assert distributed.is_launched()
distributed.setup(torch.device("cpu"))
rank = distributed.rank()
assert distributed.world_size() == 2 and distributed.is_leader() == (rank == 0)
mean = torch.tensor([1.0 + rank, 10.0 * rank])
distributed.average([mean])
row = distributed.gather(torch.tensor([rank, rank + 5]))
flags = [distributed.any_rank(flag) for flag in (False, rank == 0, rank == 1, True)]
distributed.close()
assert distributed.world_size() == 1 and distributed.is_leader() == (rank == 0)
Path(sys.argv[1], f"{rank}.txt").write_text(f"{mean.tolist()} {row.tolist()} {flags}")
"""


def test_one_process_is_rank_0_of_1(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    distributed.setup(CPU)
    assert not distributed.is_launched() and not torch.distributed.is_initialized()
    assert (distributed.rank(), distributed.world_size(), distributed.is_leader()) == (0, 1, True)
    values = torch.tensor([1.0, 2.0])
    distributed.average([values])
    assert values.tolist() == [1.0, 2.0] and distributed.gather(values) is values
    assert distributed.any_rank(True) and not distributed.any_rank(False)
    distributed.close()


def test_average_gather_any_rank_between_two_ranks(tmp_path: Path) -> None:
    store = tmp_path / "program.py"
    store.write_text(RANK_PROGRAM)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launcher, str(store), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for rank in range(2):  # one file each: the output of two processes may interleave
        text = (tmp_path / f"{rank}.txt").read_text()
        assert text == "[1.5, 5.0] [0, 5, 1, 6] [False, True, True, True]"


@pytest.mark.parametrize(("rank", "leader"), [("0", True), ("1", False)])
def test_is_leader_works_before_setup(monkeypatch: pytest.MonkeyPatch, rank: str, leader: bool) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert distributed.is_launched() and distributed.is_leader() is leader


def test_check_launch_needs_the_address_of_the_other_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    distributed.check_launch()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(LaunchError, match="are set, MASTER_ADDR not; start with torchrun, or unset RANK"):
        distributed.check_launch()
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    distributed.check_launch()


@pytest.mark.parametrize(
    ("rank", "max_restarts", "restarts"),
    [(None, "3", False), ("0", None, False), ("0", "0", False), ("1", "3", True)],
)
def test_would_restart_reads_torchrun_s_variables(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, max_restarts: str | None, restarts: bool
) -> None:
    variables = {"RANK": rank, "WORLD_SIZE": rank and "2", "TORCHELASTIC_MAX_RESTARTS": max_restarts}
    for name, value in variables.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert distributed.would_restart() is restarts


def test_find_device_refuses_missing_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert find_device() == find_device("cpu") == CPU
    with pytest.raises(DeviceError, match="'quantum' is unknown; use auto, cpu, cuda or cuda:N"):
        find_device("quantum")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(DeviceError, match="is not there .0 CUDA devices.; use auto or cpu"):
            find_device(name)


def test_find_device_gives_each_rank_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert find_device("cuda") == find_device() == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert find_device("cuda") == find_device() == torch.device("cuda:3")
    assert find_device("cuda:1") == torch.device("cuda:1")
    assert find_device("cpu") == CPU
    monkeypatch.setenv("LOCAL_RANK", "4")
    for name in ("auto", "cuda"):
        with pytest.raises(
            DeviceError, match="^more ranks than CUDA devices .4. here; use --nproc_per_node=4$"
        ):
            find_device(name)


def test_train_splits_cores_and_prefixes_errors_with_the_rank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variables = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)))
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert train.main(["--conf_path", "none.yml"]) == 2 and asked == [4]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("rank 1: error: RANK and WORLD_SIZE are set, MASTER_ADDR and MASTER_PORT not")
