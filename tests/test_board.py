"""The board that ranks share, and runs under torchrun: the same pictures as one process makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from guided_diffusion import board
from guided_diffusion.board import Board

ROOT = Path(__file__).parent.parent
Project = Callable[..., Path]


def shared(monkeypatch: pytest.MonkeyPatch, total: int, ranks: int) -> list[Board]:
    """Boards of several ranks on one store."""
    store = dist.HashStore()
    monkeypatch.setattr(board.dist, "HashStore", lambda: store)
    return [Board(total) for _ in range(ranks)]


def test_each_picture_is_taken_once_and_a_quick_rank_takes_more(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (each.take() for each in shared(monkeypatch, 7, 2))
    taken = [next(one), next(other), next(one), next(one), next(one)]
    assert taken + [*one] + [*other] == list(range(7))


def test_the_leader_hears_every_report_once_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, other = shared(monkeypatch, 4, 2)
    other.post({"name": "ä"})
    leader.post(["b"])
    assert list(leader.news()) == [{"name": "ä"}, ["b"]]
    assert list(leader.news()) == []
    monkeypatch.setattr(board.time, "sleep", lambda _seconds: other.post(len(waited)) or waited.append(1))
    waited: list[int] = []
    assert list(leader.rest()) == [0, 1] and len(waited) == 2


def test_nothing_to_do_is_done_at_once() -> None:
    empty = Board(0)
    assert list(empty.take()) == list(empty.news()) == list(empty.rest()) == []


def torchrun(conf: Path, ranks: int, *more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return subprocess.run(
        [*command, str(ROOT / "test.py"), "--conf_path", str(conf), *more],
        capture_output=True,
        text=True,
        env=environment,
    )


def pictures(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("log", folder, "inpainted").iterdir()}


@pytest.mark.slow
def test_two_ranks_make_the_bytes_of_one_and_tell_of_all(
    project: Project, cli: Callable[..., object]
) -> None:
    conf = project(count=5)
    done = torchrun(conf, 2, "--set", "name=two")
    assert done.returncode == 0, done.stderr
    cli("--conf_path", conf, "--set", "name=one")
    assert pictures("two") == pictures("one") and len(pictures("two")) == 5
    told = json.loads(Path("log/two/run.json").read_text())["pictures"]
    assert sorted(told) == [f"p{i}" for i in range(5)] and all(each["evaluations"] for each in told.values())
    assert Path("log/two/overview.png").is_file() and "5 of 5 pictures" in done.stdout
    assert done.stdout.count("p3: 10 evaluations") == 1, "one voice"
    again = torchrun(conf, 2, "--set", "name=two")
    assert "5 of 5 pictures were finished before" in again.stdout


KILLER = """
import os, signal, sys
sys.path.insert(0, os.environ["PYTHONPATH"])
from guided_diffusion.unet import UNetModel
forward, count = UNetModel.forward, 0
def dying(*arguments):
    global count
    count += 1
    if os.environ["RANK"] == "1" and count > 12 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(*arguments)
UNetModel.forward = dying
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_killed_rank_s_pictures_are_taken_over(
    project: Project, cli: Callable[..., object], tmp_path: Path, restarts: int
) -> None:
    """By the ranks that torchrun starts anew, or by the next run of the same command."""
    conf = project(count=6)
    killer = tmp_path / "killer.py"
    killer.write_text(KILLER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [f"--max-restarts={restarts}", str(killer), str(ROOT / "test.py"), "--conf_path", str(conf)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    first = subprocess.run([*command, "--set", "name=two"], capture_output=True, text=True, env=environment)
    assert (first.returncode == 0) == bool(restarts), first.stderr
    if not restarts:
        assert len(pictures("two")) < 6
        assert torchrun(conf, 2, "--set", "name=two").returncode == 0
    cli("--conf_path", conf, "--set", "name=one")
    assert pictures("two") == pictures("one") and len(pictures("two")) == 6
