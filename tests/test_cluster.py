"""Pictures shared out by Ray: who gets what, what a worker does, and, where Ray is installed, whole runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.cluster import Worker, share
from guided_diffusion.engine import Engine, load_config
from tests.conftest import ROOT, Outcome

Project = Callable[..., Path]
Cli = Callable[..., Outcome]


@given(
    gpus=st.integers(0, 9),
    cpus=st.integers(0, 200),
    parts=st.integers(1, 50),
    device=st.sampled_from(["auto", "cpu", "cuda"]),
)
def test_no_more_workers_than_parts_and_no_more_is_given_than_there_is(
    gpus: int, cpus: int, parts: int, device: str
) -> None:
    count, each = share({"GPU": float(gpus), "CPU": float(cpus), "memory": 1e9}, parts, device)
    assert 1 <= count <= parts
    if gpus and device != "cpu":
        assert each == {"num_gpus": 1} and count == min(parts, gpus)
    else:
        [threads] = each.values()
        cores = max(1, cpus)
        assert threads >= 1 and cores - count < count * threads <= cores and count == min(parts, cores)


def test_a_worker_makes_the_pictures_of_one_process_and_tells_of_each(project: Project, cli: Cli) -> None:
    conf = project(count=2)
    Path("gts/p0.png").write_bytes(b"no picture")
    engine = Engine(load_config(conf, ["name=ray"]))
    worker = Worker(engine.config, {"fingerprint": engine.run_fingerprint}, os.getcwd())
    bad, good = worker.work(engine.pairs())
    assert bad["counts"]["failed"] and "p0 failed" in bad["line"] and not good["counts"]["failed"]
    assert json.dumps([bad, good]), "plain values"
    assert not Path("log/ray/run.json").exists(), "the leader's"
    cli("--conf_path", conf, "--set", "name=one")
    assert pictures("ray") == pictures("one") and len(pictures("ray")) == 1


def test_without_ray_the_extra_is_named(project: Project, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = cli("--conf_path", project(), "--set", "ray=auto")
    assert (
        outcome.code == 2
        and outcome.err == "error: ray: auto needs the extra `ray`: pip install -e '.[ray]'\n"
    )


def pictures(folder: str) -> dict[str, bytes]:
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
    assert victim is not None and len(pictures("ray")) < 8
    os.kill(victim, signal.SIGKILL)
    out, _ = run.communicate()
    assert run.returncode == 0 and "8 of 8 pictures in" in out, out
    cli("--conf_path", conf, "--set", slowly, "name=one")
    assert pictures("ray") == pictures("one") and len(pictures("ray")) == 8
    assert sorted(json.loads(Path("log/ray/run.json").read_text())["pictures"]) == [f"p{i}" for i in range(8)]
