"""Tests of runners/work_queue.py, and runs under torchrun: the same images as those of one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.output.log_folder import LogFolder
from guided_diffusion.runners import run, work_queue
from guided_diffusion.runners.display import Display
from guided_diffusion.runners.work_queue import WorkQueue
from tests.helpers.project import NFE, Cli, Project

ROOT = Path(__file__).resolve().parents[2]


def queues_of(store: dist.Store, total: int, ranks: int) -> list[WorkQueue]:
    """Return the queues of several ranks on one store."""
    return [WorkQueue(total, store, rank, ranks) for rank in range(ranks)]


def test_claim_gives_each_image_once_and_more_to_a_fast_rank() -> None:
    fast, slow = (queue.claim() for queue in queues_of(dist.HashStore(), 7, 2))
    claimed = [next(fast), next(slow), next(fast), next(fast), next(fast)]
    assert claimed + [*fast] + [*slow] == list(range(7))


def test_poll_yields_every_report_once_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, other = queues_of(dist.HashStore(), 4, 2)
    assert list(leader.poll()) == []
    mine, others = leader.claim(), other.claim()
    other.report(next(others), {"name": "ä"})
    leader.report(next(mine), ["b"])
    assert list(leader.poll()) == [{"name": "ä"}, ["b"]]
    assert list(leader.poll()) == []
    slow = next(others)
    other.report(next(others), "quick")
    assert list(leader.poll()) == ["quick"] and list(mine) == []
    monkeypatch.setattr(
        work_queue.time, "sleep", lambda _seconds: waited.append(1) or other.report(slow, "slow")
    )
    waited: list[int] = []
    assert list(leader.drain()) == ["slow"] and len(waited) == 1


@pytest.mark.parametrize(("total", "ranks", "share"), [(10, 1, None), (10, 2, 3), (1, 4, 1), (100, 4, 13)])
def test_max_claim_size_is_half_of_an_equal_part(
    monkeypatch: pytest.MonkeyPatch, total: int, ranks: int, share: int | None
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    assert queues_of(dist.HashStore(), total, ranks)[0].max_claim_size == share


def test_empty_queue_ends_at_once() -> None:
    empty = WorkQueue(0, dist.HashStore())
    assert list(empty.claim()) == list(empty.poll()) == list(empty.drain()) == []


@given(st.data())
def test_every_image_is_reported_whatever_ranks_restart(data: st.DataObject) -> None:
    """Rounds of any number of ranks that all end somewhere; then a round that does not end early."""
    total, store = data.draw(st.integers(0, 12)), dist.HashStore()
    done: list[int] = []
    for last in [*[False] * data.draw(st.integers(0, 3)), True]:
        queues = queues_of(store, total, data.draw(st.integers(1, 4)))
        working = [queue.claim() for queue in queues]
        in_hand: set[int] = set()
        while working and (last or data.draw(st.booleans())):
            number = next(taking := data.draw(st.sampled_from(working)), None)
            if number is None:
                working.remove(taking)
                continue
            assert number not in in_hand and number not in done, (
                "claimed by one rank at a time, until it is reported"
            )
            in_hand.add(number)
            if last or data.draw(st.booleans()):
                done.append(number)
                queues[0].report(number, number)
    assert list(queues[0].poll()) == sorted(done) == list(range(total))


@pytest.fixture
def ranked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes this process a rank of two, on its own store."""

    def set_rank(rank: int, **more: str) -> None:
        variables = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
        for name, value in {**variables, **more}.items():
            monkeypatch.setenv(name, value)
        store = dist.HashStore()
        monkeypatch.setattr(dist, "rendezvous", lambda _url: iter([(store, rank, 2)]))

    return set_rank


def test_rank_that_does_not_lead_prints_only_errors(
    project: Project, cli: Cli, ranked: Callable[..., None]
) -> None:
    conf = project()
    ranked(1)
    outcome = cli("--conf_path", conf)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert len(list(Path("log/run/inpainted").iterdir())) == 3
    outcome = cli("--conf_path", conf, "--set", "model_path=none.pt")
    assert outcome.code == 2 and outcome.out == ""
    [line] = outcome.err.splitlines()
    assert line.startswith("rank 1: error: ") and "none.pt" in line


@pytest.mark.parametrize(("restarts", "code"), [("0", 1), ("2", 0)])
def test_unreadable_image_does_not_restart_torchrun(
    project: Project, cli: Cli, ranked: Callable[..., None], restarts: str, code: int
) -> None:
    conf = project()
    Path("gts/p1.png").write_bytes(b"no image")
    ranked(0, TORCHELASTIC_MAX_RESTARTS=restarts)
    outcome = cli("--conf_path", conf)
    assert outcome.code == code and "error: p1 failed: " in outcome.err and "2 of 3 images in" in outcome.out


def test_rank_without_an_address_and_ranks_with_ray_are_refused(
    project: Project, cli: Cli, monkeypatch: pytest.MonkeyPatch, ranked: Callable[..., None]
) -> None:
    conf = project()
    ranked(0)
    outcome = cli("--conf_path", conf, "--set", "ray=auto")
    message = "error: ray: auto shares the images by itself; start one process, without torchrun\n"
    assert (outcome.code, outcome.err) == (2, message)
    monkeypatch.delenv("MASTER_ADDR")
    outcome = cli("--conf_path", conf)
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1
    assert "MASTER_ADDR not; start with torchrun" in outcome.err


def test_leader_polls_during_an_image(project: Project, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank reports after the leader's first evaluation for its only image."""
    conf, queue = project(count=2), WorkQueue(2, dist.HashStore(), 0, 2)
    queue.store.set("claimer 1", "1")
    other = {
        "name": "p1",
        "level": 20,
        "line": "p1: by another rank",
        "counts": {},
        "image": {},
        "shown": None,
    }
    steps: list[int] = []

    def step(_display: object, progress: Any) -> None:
        steps.append(progress.step)
        if progress.step == 1:
            queue.report(1, other)

    accepted: list[int] = []
    accept = LogFolder.accept
    monkeypatch.setattr(Display, "step", step)
    monkeypatch.setattr(LogFolder, "accept", lambda *report: accepted.append(len(steps)) or accept(*report))
    monkeypatch.setattr(work_queue, "join", lambda _total: queue)
    monkeypatch.setattr(run, "POLL_SECONDS", 0.0)
    assert cli("--conf_path", conf).code == 0
    assert len(accepted) == 2 and accepted[0] < NFE == accepted[1], "p1, then its own image"


def launch(*arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def ended(*runs: subprocess.Popen[str]) -> list[subprocess.CompletedProcess[str]]:
    try:
        outputs = [run.communicate(timeout=240) for run in runs]
    finally:
        for run in runs:
            run.terminate()  # if it hangs; torchrun ends its ranks too
    return [subprocess.CompletedProcess(r.args, r.returncode, *t) for r, t in zip(runs, outputs, strict=True)]


def torchrun(conf: Path, ranks: int, *more: str) -> subprocess.CompletedProcess[str]:
    program = [ROOT / "test.py", "--conf_path", conf, *more]
    return ended(launch("--standalone", f"--nproc_per_node={ranks}", *program))[0]


def images(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("log", folder, "inpainted").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_save_the_bytes_of_one_process_and_report_all(
    project: Project, cli: Callable[..., object], ranks: int
) -> None:
    conf = project(count=5)
    done = torchrun(conf, ranks, "--set", "name=two")
    assert done.returncode == 0, done.stderr
    cli("--conf_path", conf, "--set", "name=one")
    assert images("two") == images("one") and len(images("two")) == 5
    entries = json.loads(Path("log/two/run.json").read_text())["images"]
    assert sorted(entries) == [f"p{i}" for i in range(5)] and all(entry["nfe"] for entry in entries.values())
    assert Path("log/two/overview.png").is_file() and "5 of 5 images" in done.stdout
    assert done.stdout.count("p3: 10 NFE") == 1, "only the leader prints"
    again = torchrun(conf, ranks, "--set", "name=two")
    assert "5 of 5 images were finished before" in again.stdout


KILLER = """
import os, pathlib, signal, sys, time
sys.path.insert(0, os.environ["PYTHONPATH"])
from guided_diffusion.unet import UNetModel
forward, count, killed = UNetModel.forward, 0, pathlib.Path(__file__).with_name("killed")
def dying(*arguments):
    global count
    count += 1
    while os.environ["RANK"] == "0" and not killed.exists():
        time.sleep(0.02)  # the other may begin late
    if os.environ["RANK"] == "1" and count > 12 and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(*arguments)
UNetModel.forward = dying
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 1])
def test_images_of_a_killed_rank_are_taken_over(
    project: Project, cli: Callable[..., object], tmp_path: Path, restarts: int
) -> None:
    """The ranks that torchrun restarts compute them, or the next run of the same command."""
    conf = project(count=6)
    killer = tmp_path / "killer.py"
    killer.write_text(KILLER)
    agent = ["--standalone", "--nproc_per_node=2", f"--max-restarts={restarts}"]
    [first] = ended(launch(*agent, killer, ROOT / "test.py", "--conf_path", conf, "--set", "name=two"))
    assert (first.returncode == 0) == bool(restarts), first.stderr
    if not restarts:
        assert len(images("two")) < 6
        assert torchrun(conf, 2, "--set", "name=two").returncode == 0
    cli("--conf_path", conf, "--set", "name=one")
    assert images("two") == images("one") and len(images("two")) == 6


@pytest.mark.slow
def test_rank_killed_on_one_of_two_machines_is_replaced(
    project: Project, cli: Callable[..., object], tmp_path: Path
) -> None:
    """Each machine's torchrun counts its own restarts: 1 on one machine, 0 on the other."""
    conf = project(count=6)
    killer = tmp_path / "killer.py"
    killer.write_text(KILLER)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    agent = ["--nnodes=2", "--nproc_per_node=1", "--max-restarts=1", "--rdzv-backend=c10d", "--rdzv-id=board"]
    program = [killer, ROOT / "test.py", "--conf_path", conf, "--set", "name=two"]
    runs = [launch(*agent, f"--rdzv-endpoint=localhost:{port}", *program) for _ in range(2)]
    done = ended(*runs)
    assert [run.returncode for run in done] == [0, 0], done[0].stderr + done[1].stderr
    assert sum("SIGKILL" in run.stderr or "-9" in run.stderr for run in done) == 1, "on one machine"
    cli("--conf_path", conf, "--set", "name=one")
    assert images("two") == images("one") and len(images("two")) == 6
