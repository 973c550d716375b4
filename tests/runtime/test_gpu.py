"""What only a CUDA device can show: `scripts/test -m gpu`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from guided_diffusion.engine import Engine, load_config
from guided_diffusion.inpainting.tiled_denoiser import TiledDenoiser
from guided_diffusion.inpainting.views import View, read
from guided_diffusion.operators import NoObservation
from guided_diffusion.samplers import Noise, Problem, sample
from tests.helpers.results import inpainted

pytestmark = pytest.mark.gpu
Project = Callable[..., Path]


def fill(conf: Path, *overrides: str) -> dict[str, np.ndarray]:
    return {r.name: inpainted(r) for r in Engine(load_config(conf, overrides))() if inpainted(r) is not None}


def views_of(engine: Engine) -> list[View]:
    """What the model sees of all the images."""
    return [view for pair in engine.pairs() for view in engine.job(pair.name, *read(pair)).views]


def never_waits(engine: Engine, problem: Problem) -> None:
    """A second walk runs through without a synchronisation; the first takes tables up, and captures."""
    list(sample(engine.sampler, problem))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps = list(sample(engine.sampler, problem))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(steps[-1].x).all()


def test_a_whole_walk_never_waits_for_the_device(project: Project) -> None:
    conf = project(count=2, device="cuda")
    engine = Engine(load_config(conf))
    never_waits(engine, engine.painter.problem(views_of(engine)))


def test_batches_give_the_same_bytes_or_one_level_apart(project: Project) -> None:
    """In float32: kernels, and with them the last digits, depend on the batch's size."""
    conf = project(count=4, device="cuda", precision="fp32")
    one, four = fill(conf), fill(conf, "data.batch_size=4")
    assert max(np.abs(one[name].astype(int) - four[name]).max() for name in one) <= 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_float32_in_whatever_batch(project: Project, precision: str) -> None:
    """Batches differ in the last digits, which are as coarse as the precision."""
    conf = project(count=4, device="cuda")
    full, half = fill(conf, "precision=fp32"), fill(conf, f"precision={precision}")
    four = fill(conf, f"precision={precision}", "data.batch_size=4")
    for name, image in half.items():
        for other in (full[name], four[name]):
            assert np.abs(image.astype(int) - other).mean() < 8


def test_captured_networks_change_no_byte_and_never_wait(project: Project) -> None:
    conf = project(count=4, device="cuda")
    for batch in ("data.batch_size=1", "data.batch_size=3"):  # 3: a batch of 3 and one of 1
        plain, quick = fill(conf, batch, "compile=false"), fill(conf, batch, "compile=true")
        assert all(np.array_equal(plain[name], quick[name]) for name in plain)
    engine = Engine(load_config(conf, ["compile=true"]))
    never_waits(engine, engine.painter.problem(views_of(engine)))
    [call] = engine.models.network.compiled.values()
    assert call is not engine.models.network.network, "it was not captured"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_networks_are_captured_on_whichever_device_they_are(project: Project) -> None:
    for device in ("cuda:0", "cuda:1"):  # one after the other in one process
        conf = project(count=2, device=device)
        plain, quick = fill(conf, "compile=false"), fill(conf, "compile=true")
        assert all(np.array_equal(plain[name], quick[name]) for name in plain)


def test_overlapping_windows_never_wait_for_the_device(project: Project) -> None:
    conf = project(count=1, device="cuda")
    engine = Engine(load_config(conf))
    problem = engine.painter.problem(views_of(engine))
    wide = torch.cat([problem.y] * 2, dim=3)
    noise = Noise([torch.Generator("cuda").manual_seed(0)], wide.shape[1:])
    where = torch.ones(wide.shape[2:], dtype=torch.bool)
    denoise = TiledDenoiser(problem.denoise, 16, 8, where)
    never_waits(engine, Problem(wide, NoObservation(), denoise, problem.process, noise))
