"""ILVR against algebra: the reference's low frequencies to rounding, the prior's statistics for the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from guided_diffusion.engine import Engine, load_config
from guided_diffusion.errors import ConfigError
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.images.formats import read_image, resize, write_image
from guided_diffusion.operators import NoObservation
from guided_diffusion.respace import get_named_beta_schedule, respaced_betas, space_timesteps
from guided_diffusion.samplers import Problem, Sampler, Step, sample
from guided_diffusion.samplers.ilvr import ILVR
from tests.helpers.gaussian import GaussianDenoiser, pixels
from tests.helpers.project import ROOT, Cli, Project, image
from tests.helpers.results import inpainted, inpainted_image, results

COUNT = 4000
# Four pixels in two blocks, whose means and differences are independent under the prior.
MEANS, DIFFERENCES = torch.tensor([0.4, 0.2]), torch.tensor([0.1, 0.3])  # standard deviations
MEAN = torch.tensor([0.3, -0.1, 0.2, 0.0])
BASIS = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1], [1, -1, 0, 0], [0, 0, 1, -1]])  # rows are orthogonal
COVARIANCE = BASIS.T @ torch.diag(torch.cat([MEANS, DIFFERENCES]) ** 2) @ BASIS
REFERENCE = pixels(0.9, 0.5, -0.6, 0.2)


def process(steps: int) -> GaussianDiffusion:
    betas = get_named_beta_schedule("linear", 1000)
    return GaussianDiffusion(respaced_betas(betas, space_timesteps(1000, steps)))


def noise(seed: int) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(COUNT, 1, 1, 4, generator=generator)


def problem(steps: int, seed: int = 0) -> Problem:
    q = process(steps)
    y = REFERENCE.expand(COUNT, 1, 1, 4)
    return Problem(y, NoObservation(), GaussianDenoiser(q, MEAN, COVARIANCE), q, noise(seed))


def run(sampler: Sampler, steps: int) -> tuple[Tensor, Tensor]:
    """Means and half differences (COUNT, 2) of the two blocks."""
    x = [step.x for step in sample(sampler, problem(steps))][-1][:, 0, 0]
    return (x[:, ::2] + x[:, 1::2]) / 2, (x[:, ::2] - x[:, 1::2]) / 2


def test_ilvr_takes_means_from_the_reference_and_differences_from_the_prior() -> None:
    means, differences = run(ILVR(down_n=2), 250)
    assert torch.allclose(means, torch.tensor([0.7, -0.2]).expand(COUNT, 2), atol=1e-6)
    assert torch.allclose(differences.mean(0), torch.tensor([0.2, 0.1]), atol=0.02)
    assert torch.allclose(differences.std(0), DIFFERENCES, rtol=0.1)


def test_range_t_ends_in_the_posterior_of_the_noised_means() -> None:
    """Gaussian algebra gives it: a block's mean m at noise level a is known as N(a^1/2 m, (1 - a) / 2)."""
    free = 30
    means, differences = run(ILVR(down_n=2, range_t=free), 100)
    a = process(100).alpha_bar(free - 1)
    spread = 1 / (1 / MEANS**2 + 2 * a / (1 - a))
    gain = spread * 2 * a / (1 - a)
    mean = spread * torch.tensor([0.1, 0.1]) / MEANS**2 + gain * torch.tensor([0.7, -0.2])
    assert torch.allclose(means.mean(0), mean, atol=0.02)
    assert torch.allclose(means.var(0), spread + gain**2 * (1 - a) / (2 * a), rtol=0.1)
    assert torch.allclose(differences.mean(0), torch.tensor([0.2, 0.1]), atol=0.03)


@pytest.mark.parametrize("t", [0, 1, 7])
def test_step_takes_the_reference_at_the_next_noise_level(t: int) -> None:
    """Algorithm 1: the block means of x_{t-1} are those of y_{t-1}; the rest is the plain DDPM step's."""
    case, draws = problem(10, seed=3), noise(3)
    x = noise(4)()
    out = ILVR(down_n=2).down(case, Step(t, x), t - 1)
    p = case.denoise(x, t)
    plain = case.process.ddpm_step(x, t, p.x0, p.log_variance, draws())
    a = case.process.alpha_bar(t - 1)
    y = a**0.5 * case.y + (1 - a) ** 0.5 * draws()
    low = [F.avg_pool2d(plane, (1, 2)) for plane in (out.x, y, plain)]
    assert out.t == t - 1
    assert torch.allclose(low[0], low[1], atol=1e-6)
    rest = [plane - low.repeat_interleave(2, -1) for plane, low in ((out.x, low[0]), (plain, low[2]))]
    assert torch.allclose(rest[0], rest[1], atol=1e-6)


def test_down_n_of_1_returns_the_reference() -> None:
    means, differences = run(ILVR(down_n=1), 10)
    assert torch.allclose(means, torch.tensor([0.7, -0.2]).expand(COUNT, 2), atol=1e-6)
    assert torch.allclose(differences, torch.tensor([0.2, -0.4]).expand(COUNT, 2), atol=1e-6)
    means, _ = run(ILVR(down_n=64), 10)
    assert torch.allclose(means.mean(1), torch.tensor(0.25), atol=1e-6)
    assert means.std(0).min() > 0.05


def test_times_visit_every_step_once() -> None:
    assert list(ILVR(down_n=2, range_t=4).times(process(5))) == [4, 3, 2, 1, 0, -1]


def test_saved_image_has_the_block_means_of_its_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    small = tmp_path / "small.png"
    write_image(small, resize(read_image("data/samples/shadow/scene_pavement.png"), (64, 64)))
    few = ["timestep_respacing='10'", f"data.gt_path={small}"]
    [result] = Engine(load_config("confs/shadow_ilvr.yml", few))()
    assert inpainted(result) is not None and result.gt is not None
    assert result.outputs["inpainted"].nfe == 10
    blocks, wanted = (plane.astype(float).reshape(8, 8, 8, 8, 3) for plane in (inpainted(result), result.gt))
    whole = ((blocks > 0) & (blocks < 255)).all(axis=(1, 3))  # no pixel was clipped: only rounding is left
    assert whole.mean() > 0.5
    assert np.abs((blocks - wanted).mean(axis=(1, 3)))[whole].max() <= 0.5
    assert np.abs(blocks - wanted).mean() > 4


@pytest.fixture
def conf(project: Project) -> Path:
    """One image without a mask."""
    return project(count=1, method="ilvr", down_n=4, data={"gt_path": "gts"})


def test_ilvr_takes_any_size(conf: Path) -> None:
    Image.fromarray(image(5, 23, 45)).save("gts/odd.png")
    shapes = {name: inpainted_image(result).shape for name, result in results(conf, "down_n=5").items()}
    assert shapes == {"p0": (16, 16, 3), "odd": (23, 45, 3)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["down_n=0"], "down_n: 0 is not an integer of at least 1"),
        (["range_t=6"], "range_t 6 leaves none of the 6 steps to the reference; choose 0 to 5"),
        (["down_N=4"], "unknown key 'down_N' (in --set down_N=4); the nearest known key is 'down_n'"),
    ],
)
def test_impossible_settings_are_named(conf: Path, changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Engine(load_config(conf, changes))
    assert message in str(caught.value)


def test_missing_down_n_is_named(project: Project, cli: Cli) -> None:
    settings: dict[str, Any] = {"method": "ilvr", "data": {"gt_path": "gts"}}
    outcome = cli("--conf_path", project(count=1, **settings))
    assert outcome.code == 2
    assert "down_n is missing" in outcome.err
