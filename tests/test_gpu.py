"""What only a CUDA device can show: `scripts/test -m gpu`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from guided_diffusion.engine import Engine, load_config
from guided_diffusion.jobs import View, read
from guided_diffusion.samplers import walk

pytestmark = pytest.mark.gpu
Project = Callable[..., Path]


def fill(conf: Path, *overrides: str) -> dict[str, np.ndarray]:
    return {r.name: r.filled for r in Engine(load_config(conf, overrides))() if r.filled is not None}


def views_of(engine: Engine) -> list[View]:
    """What the model sees of all the pictures."""
    return [view for pair in engine.pairs() for view in engine.job(pair.name, *read(pair)).views]


def never_waits(engine: Engine, views: list[View]) -> None:
    """A walk over these views runs through without a synchronisation."""
    problem = engine.painter.problem(views)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps = list(walk(engine.sampler, problem))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(steps[-1].x).all()


def test_a_whole_walk_never_waits_for_the_device(project: Project) -> None:
    conf = project(count=2, device="cuda")
    engine = Engine(load_config(conf))
    views = views_of(engine)
    list(walk(engine.sampler, engine.painter.problem(views)))  # warm: tables go up once
    never_waits(engine, views)


def test_batches_give_the_same_bytes_or_one_level_apart(project: Project) -> None:
    conf = project(count=4, device="cuda")
    one, four = fill(conf), fill(conf, "data.batch_size=4")
    assert max(np.abs(one[name].astype(int) - four[name]).max() for name in one) <= 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_float32(project: Project, precision: str) -> None:
    conf = project(count=1, device="cuda")
    full, half = fill(conf)["p0"], fill(conf, f"precision={precision}")["p0"]
    assert np.abs(full.astype(int) - half).mean() < 8


def test_captured_networks_change_no_byte_and_never_wait(project: Project) -> None:
    conf = project(count=4, device="cuda")
    for batch in ("data.batch_size=1", "data.batch_size=3"):  # 3: a batch of 3 and one of 1
        plain, quick = fill(conf, batch, "compile=false"), fill(conf, batch, "compile=true")
        assert all(np.array_equal(plain[name], quick[name]) for name in plain)
    engine = Engine(load_config(conf, ["compile=true"]))
    views = views_of(engine)
    list(walk(engine.sampler, engine.painter.problem(views)))  # captures
    [call] = engine.networks.network.compiled.values()
    assert call is not engine.networks.network.network, "it was not captured"
    never_waits(engine, views)
