"""Tests of runners/ray_cluster.py: planning, one worker, and, where Ray is installed, whole runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guided_diffusion.engine import Engine, load_config
from guided_diffusion.images.pairs import Pair
from guided_diffusion.runners.ray_cluster import Worker, dispatch, plan_workers, split_chunks
from tests.helpers.project import ROOT, Cli, Project


@given(
    nodes=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 64)), max_size=5),
    chunks=st.integers(1, 50),
    device=st.sampled_from(["auto", "cpu", "cuda"]),
)
@example(nodes=[(0, 3), (0, 3)], chunks=1, device="cpu")  # no machine has six cores
@example(nodes=[(0, 5), (0, 5), (0, 5)], chunks=4, device="cpu")
def test_plan_workers_fits_each_worker_on_a_machine(
    nodes: list[tuple[int, int]], chunks: int, device: str
) -> None:
    known = [{"GPU": float(gpus), "CPU": float(cpus), "memory": 1e9} for gpus, cpus in nodes]
    count, resources = plan_workers(known, chunks, device)
    gpus, cpus = (sum(node[i] for node in nodes) for i in (0, 1))
    if gpus and device != "cpu":
        assert resources == {"num_gpus": 1} and count == min(chunks, gpus)
        return
    [threads] = resources.values()
    assert count == min(chunks, max(1, cpus)) and threads >= 1
    fits = {size: sum(cores // size for _, cores in nodes) for size in (threads, threads + 1)}
    assert not cpus or fits[threads] >= count > fits[threads + 1], "as many threads as fit"


@given(total=st.integers(1, 200), workers=st.integers(1, 20), max_size=st.integers(1, 300))
def test_split_chunks_gives_each_worker_two_chunks_if_possible(
    total: int, workers: int, max_size: int
) -> None:
    pairs = [Pair(str(i), None, None) for i in range(total)]
    chunks = split_chunks(pairs, workers, max_size)
    assert [pair for chunk in chunks for pair in chunk] == pairs
    assert all(len(chunk) <= max_size for chunk in chunks)
    if workers == 1:
        assert len(chunks) == -(-total // max_size), "chunks of the largest size"
        return
    assert len(chunks) > min(total, 2 * workers) / 2
    if total % (2 * workers) == 0:
        assert len(chunks) >= 2 * workers


class FakeRay:
    """Replaces Ray: a worker answers at once, or never starts."""

    def __init__(self, waiting: list[object]) -> None:
        self.waiting = waiting  # workers that never start

    def wait(self, refs: list[tuple[object, list[int]]], timeout: float | None) -> tuple[list, list]:
        done = [ref for ref in refs if ref[0] not in self.waiting]
        assert done or timeout is not None, "it would wait for ever"
        return done[:1], []

    @staticmethod
    def get(ref: tuple[object, tuple[int, ...]]) -> list[int]:
        return list(ref[1])


class FakeWorker:
    """A worker; the reference to its answer is a pair of both."""

    def __init__(self) -> None:
        self.work = self

    def remote(self, chunk: list[int]) -> tuple[object, tuple[int, ...]]:
        return self, tuple(chunk)


def test_dispatch_does_not_wait_for_workers_that_cannot_start() -> None:
    free, never = FakeWorker(), FakeWorker()
    assert [*dispatch(FakeRay([never]), [never, free], [[0, 1], [2], [3]])] == [0, 1, 2, 3]
    with pytest.raises(TimeoutError, match="^no worker started within 300 s; is the cluster busy.$"):
        next(dispatch(FakeRay([never, free]), [never, free], [[0]]))


def test_worker_computes_the_images_of_one_process_and_reports_each(project: Project, cli: Cli) -> None:
    conf = project(count=2)
    Path("gts/p0.png").write_bytes(b"no image")
    engine = Engine(load_config(conf, ["name=ray"]))
    worker = Worker(engine.config, {"fingerprint": engine.run_fingerprint}, os.getcwd())
    bad, good = worker.work(engine.pairs())
    assert bad["counts"]["failed"] and "p0 failed" in bad["line"] and not good["counts"]["failed"]
    assert json.dumps([bad, good]), "plain values only"
    assert not Path("log/ray/run.json").exists(), "only the leader writes it"
    cli("--conf_path", conf, "--set", "name=one")
    assert images("ray") == images("one") and len(images("ray")) == 1


def test_run_without_ray_names_the_extra(project: Project, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = cli("--conf_path", project(), "--set", "ray=auto")
    assert (
        outcome.code == 2
        and outcome.err == "error: ray: auto needs the extra `ray`: pip install 'penumbra[ray]'\n"
    )


def test_run_reports_the_type_of_an_error_without_text(
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
    kept = "finished images are kept; run the same command again to continue"
    assert outcome.code == 1 and outcome.err == f"error: ray auto: ConnectionError; {kept}\n"


def images(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("log", folder, "inpainted").iterdir()}


def find_worker(root: Path) -> int | None:
    """Return the process id of a Ray worker that has started in this folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::Worker" in (process / "cmdline").read_bytes() and (process / "cwd").readlink() == root:
                return int(process.name)
        except OSError:  # it has ended
            continue
    return None


@pytest.mark.slow
def test_two_workers_save_the_bytes_of_one_process_though_one_is_killed(
    project: Project, cli: Cli, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    conf, slowly = project(count=8), "timestep_respacing=60"
    command = [sys.executable, str(ROOT / "test.py"), "--conf_path", str(conf), "--set", slowly]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [*command, "name=ray", "ray=local"], stdout=subprocess.PIPE, text=True, env=environment
    )
    folder = Path("log/ray/inpainted")
    while not (folder.exists() and any(folder.iterdir())):
        assert run.poll() is None, "it ended without an image"
        time.sleep(0.05)
    victim = find_worker(tmp_path)
    assert victim is not None and len(images("ray")) < 8
    os.kill(victim, signal.SIGKILL)
    out, _ = run.communicate()
    assert run.returncode == 0 and "8 of 8 images in" in out, out
    cli("--conf_path", conf, "--set", slowly, "name=one")
    assert images("ray") == images("one") and len(images("ray")) == 8
    assert sorted(json.loads(Path("log/ray/run.json").read_text())["images"]) == [f"p{i}" for i in range(8)]
