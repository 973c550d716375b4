"""Images shared out by Ray: who gets what, what a worker does, and, where Ray is installed, whole runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guided_diffusion.engine import Engine, load_config
from guided_diffusion.images.pairs import Pair
from guided_diffusion.runners.ray_cluster import Worker, dispatch, plan_workers, split_chunks
from tests.conftest import ROOT, Outcome

Project = Callable[..., Path]
Cli = Callable[..., Outcome]


@given(
    nodes=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 64)), max_size=5),
    parts=st.integers(1, 50),
    device=st.sampled_from(["auto", "cpu", "cuda"]),
)
@example(nodes=[(0, 3), (0, 3)], parts=1, device="cpu")  # six cores, and no machine that has them
@example(nodes=[(0, 5), (0, 5), (0, 5)], parts=4, device="cpu")
def test_as_many_workers_as_there_are_parts_or_places_and_each_fits(
    nodes: list[tuple[int, int]], parts: int, device: str
) -> None:
    known = [{"GPU": float(gpus), "CPU": float(cpus), "memory": 1e9} for gpus, cpus in nodes]
    count, each = plan_workers(known, parts, device)
    gpus, cpus = (sum(node[i] for node in nodes) for i in (0, 1))
    if gpus and device != "cpu":
        assert each == {"num_gpus": 1} and count == min(parts, gpus)
        return
    [threads] = each.values()
    assert count == min(parts, max(1, cpus)) and threads >= 1
    places = {size: sum(cores // size for _, cores in nodes) for size in (threads, threads + 1)}
    assert not cpus or places[threads] >= count > places[threads + 1], "and as large as they fit"


@given(total=st.integers(1, 200), workers=st.integers(1, 20), most=st.integers(1, 300))
def test_each_of_several_workers_has_two_parts_if_there_are_as_many_pictures(
    total: int, workers: int, most: int
) -> None:
    pairs = [Pair(str(i), None, None) for i in range(total)]
    parts = split_chunks(pairs, workers, most)
    assert [pair for part in parts for pair in part] == pairs
    assert all(len(part) <= most for part in parts)
    if workers == 1:
        assert len(parts) == -(-total // most), "as large as they may be"
        return
    assert len(parts) > min(total, 2 * workers) / 2
    if total % (2 * workers) == 0:
        assert len(parts) >= 2 * workers


class Ready:
    """In place of Ray: workers of which some find no place; what they do is done at once."""

    def __init__(self, waiting: list[object]) -> None:
        self.waiting = waiting  # the workers without a place

    def wait(self, refs: list[tuple[object, list[int]]], timeout: float | None) -> tuple[list, list]:
        done = [ref for ref in refs if ref[0] not in self.waiting]
        assert done or timeout is not None, "for ever"
        return done[:1], []

    @staticmethod
    def get(ref: tuple[object, tuple[int, ...]]) -> list[int]:
        return list(ref[1])


class Placed:
    """A worker; the reference to its answer is the worker and the answer."""

    def __init__(self) -> None:
        self.work = self

    def remote(self, part: list[int]) -> tuple[object, tuple[int, ...]]:
        return self, tuple(part)


def test_what_finds_no_place_is_not_waited_for() -> None:
    free, never = Placed(), Placed()
    assert [*dispatch(Ready([never]), [never, free], [[0, 1], [2], [3]])] == [0, 1, 2, 3]
    with pytest.raises(TimeoutError, match="^no worker started within 300 s; is the cluster busy.$"):
        next(dispatch(Ready([never, free]), [never, free], [[0]]))


def test_a_worker_makes_the_pictures_of_one_process_and_tells_of_each(project: Project, cli: Cli) -> None:
    conf = project(count=2)
    Path("gts/p0.png").write_bytes(b"no image")
    engine = Engine(load_config(conf, ["name=ray"]))
    worker = Worker(engine.config, {"fingerprint": engine.run_fingerprint}, os.getcwd())
    bad, good = worker.work(engine.pairs())
    assert bad["counts"]["failed"] and "p0 failed" in bad["line"] and not good["counts"]["failed"]
    assert json.dumps([bad, good]), "plain values"
    assert not Path("log/ray/run.json").exists(), "the leader's"
    cli("--conf_path", conf, "--set", "name=one")
    assert images("ray") == images("one") and len(images("ray")) == 1


def test_without_ray_the_extra_is_named(project: Project, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = cli("--conf_path", project(), "--set", "ray=auto")
    assert (
        outcome.code == 2
        and outcome.err == "error: ray: auto needs the extra `ray`: pip install -e '.[ray]'\n"
    )


def test_an_error_without_words_is_called_by_its_name(
    project: Project, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(ModuleType):
        exceptions = SimpleNamespace(RayError=type("RayError", (Exception,), {}))

        def init(self, *_: object, **__: object) -> None:
            raise ConnectionError

        def shutdown(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "ray", Silent("ray"))
    outcome = cli("--conf_path", project(), "--set", "ray=auto")
    told = "error: ray auto: ConnectionError; finished images are kept, the same command goes on\n"
    assert outcome.code == 1 and outcome.err == told


def images(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("log", folder, "inpainted").iterdir()}


def a_worker(root: Path) -> int | None:
    """Process id of one of Ray's workers that has begun in this folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::Worker" in (process / "cmdline").read_bytes() and (process / "cwd").readlink() == root:
                return int(process.name)
        except OSError:  # it has ended
            continue
    return None


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_make_the_bytes_of_one_process(
    project: Project, cli: Cli, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    conf, slowly = project(count=8), "timestep_respacing=60"
    command = [sys.executable, str(ROOT / "test.py"), "--conf_path", str(conf), "--set", slowly]
    told = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen([*command, "name=ray", "ray=local"], stdout=subprocess.PIPE, text=True, env=told)
    made = Path("log/ray/inpainted")
    while not (made.exists() and any(made.iterdir())):
        assert run.poll() is None, "nothing was made"
        time.sleep(0.05)
    victim = a_worker(tmp_path)
    assert victim is not None and len(images("ray")) < 8
    os.kill(victim, signal.SIGKILL)
    out, _ = run.communicate()
    assert run.returncode == 0 and "8 of 8 images in" in out, out
    cli("--conf_path", conf, "--set", slowly, "name=one")
    assert images("ray") == images("one") and len(images("ray")) == 8
    assert sorted(json.loads(Path("log/ray/run.json").read_text())["images"]) == [f"p{i}" for i in range(8)]
