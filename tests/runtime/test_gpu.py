"""Tests that need a CUDA device: `scripts/test -m gpu`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from guided_diffusion.engine import Engine, load_config
from guided_diffusion.images.inputs import read_pair
from guided_diffusion.inpainting.task import InpaintTask
from guided_diffusion.inpainting.tiled_denoiser import TiledDenoiser
from guided_diffusion.inpainting.views import ModelView
from guided_diffusion.operators import NoObservation
from guided_diffusion.runtime.seeds import ImageSeed
from guided_diffusion.samplers import Noise, Problem, sample
from tests.helpers.project import Project
from tests.helpers.results import inpainted

pytestmark = pytest.mark.gpu


def inpaint(conf: Path, *overrides: str) -> dict[str, np.ndarray]:
    return {r.name: inpainted(r) for r in Engine(load_config(conf, overrides))() if inpainted(r) is not None}


def problem_of(engine: Engine) -> Problem:
    """Pose the problem of all views of the images."""
    assert isinstance(engine.task, InpaintTask)
    views: list[ModelView] = []
    for pair in engine.pairs():
        image, keep = read_pair(pair)
        views += engine.task.planner.plan("", pair.name, image, keep, ImageSeed(0, pair.name)).views
    return engine.task.inpainter.problem(views)


def assert_never_synchronises(engine: Engine, problem: Problem) -> None:
    """Sample twice: the first run uploads tables and captures, the second must not synchronise."""
    list(sample(engine.sampler, problem))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps = list(sample(engine.sampler, problem))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(steps[-1].x).all()


def test_sampling_never_synchronises_with_the_gpu(project: Project) -> None:
    conf = project(count=2, device="cuda")
    engine = Engine(load_config(conf))
    assert_never_synchronises(engine, problem_of(engine))


def test_batch_size_changes_images_by_at_most_one_level(project: Project) -> None:
    """In float32: kernels, and with them the last digits, depend on the batch's size."""
    conf = project(count=4, device="cuda", precision="fp32")
    single, four = inpaint(conf), inpaint(conf, "data.batch_size=4")
    assert max(np.abs(single[name].astype(int) - four[name]).max() for name in single) <= 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_float32_in_any_batch(project: Project, precision: str) -> None:
    """Batches differ in the last digits, which are as coarse as the precision."""
    conf = project(count=4, device="cuda")
    full, half = inpaint(conf, "precision=fp32"), inpaint(conf, f"precision={precision}")
    four = inpaint(conf, f"precision={precision}", "data.batch_size=4")
    for name, image in half.items():
        for other in (full[name], four[name]):
            assert np.abs(image.astype(int) - other).mean() < 8


def test_captured_network_changes_no_byte_and_never_synchronises(project: Project) -> None:
    conf = project(count=4, device="cuda")
    for batch in ("data.batch_size=1", "data.batch_size=3"):  # 3: a batch of 3 and one of 1
        plain, quick = inpaint(conf, batch, "compile=false"), inpaint(conf, batch, "compile=true")
        assert all(np.array_equal(plain[name], quick[name]) for name in plain)
    engine = Engine(load_config(conf, ["compile=true"]))
    assert_never_synchronises(engine, problem_of(engine))
    [call] = engine.models.network.compiled.values()
    assert call is not engine.models.network.network, "the network was not captured"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_network_is_captured_on_its_own_gpu(project: Project) -> None:
    for device in ("cuda:0", "cuda:1"):  # one after the other in one process
        conf = project(count=2, device=device)
        plain, quick = inpaint(conf, "compile=false"), inpaint(conf, "compile=true")
        assert all(np.array_equal(plain[name], quick[name]) for name in plain)


def test_overlapping_windows_never_synchronise_with_the_gpu(project: Project) -> None:
    conf = project(count=1, device="cuda")
    engine = Engine(load_config(conf))
    problem = problem_of(engine)
    wide = torch.cat([problem.y] * 2, dim=3)
    noise = Noise([torch.Generator("cuda").manual_seed(0)], wide.shape[1:])
    region = torch.ones(wide.shape[2:], dtype=torch.bool)
    denoise = TiledDenoiser(problem.denoise, 16, 8, region)
    assert_never_synchronises(engine, Problem(wide, NoObservation(), denoise, problem.process, noise))
