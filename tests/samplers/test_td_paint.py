"""TD-Paint against algebra: the ideal network of a Gaussian prior, which reads a time per pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guided_diffusion.build import build_process
from guided_diffusion.config.schema import ProcessConfig
from guided_diffusion.denoiser import Denoiser
from guided_diffusion.engine import Engine, load_config
from guided_diffusion.errors import ConfigError
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.guidance import GuidedDenoiser
from guided_diffusion.operators import LowPass, Mask, NoObservation
from guided_diffusion.samplers import Problem, Sampler, sample
from guided_diffusion.samplers.ddim import DDIM
from guided_diffusion.samplers.ddpm import DDPM
from guided_diffusion.samplers.td_paint import TDPaint
from tests.helpers.gaussian import GaussianDenoiser, pixels
from tests.helpers.project import Project, image, keep_mask
from tests.helpers.results import inpainted

COUNT = 20000
MEAN = torch.tensor([0.3, -0.2, 0.1])
ROOT = torch.tensor([[0.5, 0.0, 0.0], [0.35, 0.2, 0.0], [-0.2, 0.15, 0.3]])
COVARIANCE = ROOT @ ROOT.T
KNOWN, UNKNOWN, SEEN = [0], [1, 2], 0.9  # pixel 0 is seen, 1.2 standard deviations above its mean


def conditional() -> tuple[Tensor, Tensor]:
    """Mean and covariance of the unknown pixels given the known one."""
    gain = COVARIANCE[UNKNOWN][:, KNOWN] / COVARIANCE[0, 0]
    mean = MEAN[UNKNOWN] + gain[:, 0] * (SEEN - MEAN[0])
    return mean, COVARIANCE[UNKNOWN][:, UNKNOWN] - gain @ COVARIANCE[KNOWN][:, UNKNOWN]


class IdealNetwork(nn.Module):
    """Answers of a perfectly trained network: eps and v of the Gaussian that the clean pixels leave.

    It knows what is clean from the times alone: (B, 1, 1, 3), 0 = clean. A time for all pixels means that
    none is clean.
    """

    def __init__(self, process: GaussianDiffusion, times: Tensor) -> None:
        super().__init__()
        self.process, self.index = process, {int(time): i for i, time in enumerate(times)}

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        t = self.index[int(times.max())]
        if times.ndim == 1 or t == 0:  # at the first index nothing is noisy enough to tell apart
            p = GaussianDenoiser(self.process, MEAN, COVARIANCE)(x, t)
            return torch.cat([p.eps, self._v(p.log_variance, t)], dim=1)
        assert times[..., 0].eq(0).all() and times[..., 1:].eq(times.max()).all()
        assert x[..., 0].eq(SEEN).all()
        p = GaussianDenoiser(self.process, *conditional())(x[..., UNKNOWN], t)
        seven = torch.full_like(x[..., KNOWN], 7.0)  # at a clean pixel nobody may listen
        return torch.cat([seven, p.eps, seven, self._v(p.log_variance, t)], dim=-1).view(len(x), 2, 1, 3)

    def _v(self, log_variance: Tensor, t: int) -> Tensor:
        small = self.process.posterior_log_variance_clipped[t]
        return 2 * (log_variance - small) / (np.log(self.process.betas[t]) - small) - 1


def draws(width: int) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randn(COUNT, 1, 1, width, generator=generator)


def problem(steps: int, network: type[IdealNetwork] = IdealNetwork) -> Problem:
    """To fill pixels 1 and 2 in `steps` steps, beside pixel 0."""
    process, times = build_process(ProcessConfig(timestep_respacing=str(steps)))
    denoise = Denoiser(network(process, times), process, times, clip=False)
    y = pixels(SEEN, 99.0, 99.0).expand(COUNT, 1, 1, 3)
    return Problem(y, Mask(pixels(1.0, 0.0, 0.0)), denoise, process, draws(3))


def run(sampler: Sampler, task: Problem) -> Tensor:
    return [step.x for step in sample(sampler, task)][-1][:, 0, 0]  # (B, 3)


@pytest.mark.parametrize(("steps", "loose"), [(25, 0.25), (100, 0.07)])
def test_td_paint_follows_the_exact_conditional(steps: int, loose: float) -> None:
    """Steps draw their noise for each pixel alone, so few of them lose a little of the correlation only."""
    x = run(TDPaint(), problem(steps))
    mean, covariance = conditional()
    assert abs(mean[0] - MEAN[1]) > 0.3  # what is known matters
    assert torch.equal(x[:, 0], torch.full((COUNT,), SEEN))
    assert torch.allclose(x[:, 1:].mean(0), mean, atol=0.01)
    actual = x[:, 1:].T.cov()
    assert torch.allclose(actual.diagonal(), covariance.diagonal(), rtol=0.06)
    assert actual[0, 1] == pytest.approx(float(covariance[0, 1]), rel=loose)


def test_ddim_steps_are_too_narrow() -> None:
    """Why there is no `eta`."""
    process, _ = build_process(ProcessConfig(timestep_respacing="25"))
    denoise, y = GaussianDenoiser(process, *conditional()), torch.zeros(COUNT, 1, 1, 2)
    for eta, at_most in ((0.0, 0.75), (1.0, 0.65)):
        x = run(DDIM(eta), Problem(y, NoObservation(), denoise, process, draws(2)))
        assert (x.var(0) < at_most * conditional()[1].diagonal()).all()


def test_td_paint_keeps_known_pixels_at_every_step() -> None:
    task = problem(10)
    steps = list(sample(TDPaint(), task))
    assert [step.t for step in steps] == list(range(8, -2, -1))
    for step in steps:
        assert step.x0 is not None
        assert step.x[..., 0].eq(SEEN).all() and step.x0[..., 0].eq(SEEN).all()
        assert step.x[..., 1:].std() > 0.1


def test_td_paint_without_a_mask_is_ddpm() -> None:
    first, second = (replace(problem(25), operator=NoObservation()) for _ in range(2))
    assert torch.equal(run(TDPaint(), first), run(DDPM(), second))


class Flat(IdealNetwork):
    """Takes a map that is the same everywhere for the one time it is."""

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        assert times.eq(times.max()).all()
        return super().forward(x, times.flatten(1)[:, 0] if times.ndim == 4 else times)


def test_td_paint_with_an_empty_mask_is_ddpm() -> None:
    blind = replace(problem(25, Flat), operator=Mask(torch.zeros(1, 1, 1, 3)))
    assert torch.equal(run(TDPaint(), blind), run(DDPM(), replace(problem(25), operator=NoObservation())))


def test_td_paint_refuses_other_observations_and_denoisers() -> None:
    with pytest.raises(ValueError, match="takes a mask, not LowPass"):
        run(TDPaint(), replace(problem(10), operator=LowPass(2)))
    task = problem(10)
    ideal = GaussianDenoiser(task.process, MEAN, COVARIANCE)
    with pytest.raises(ValueError, match="GaussianDenoiser cannot be told what is clean"):
        run(TDPaint(), replace(task, denoise=ideal))
    guided = GuidedDenoiser(task.denoise, nn.Identity(), torch.zeros(10), torch.zeros(1), 1.0)
    with pytest.raises(ValueError, match="a classifier has not learned from clean pixels .*; use repaint"):
        run(TDPaint(), replace(task, denoise=guided))


# from a YAML


def test_run_keeps_known_bytes_at_one_evaluation_per_step(project: Project) -> None:
    conf = project(count=2, method="td_paint", per_pixel_time=True, paste_known=False, timestep_respacing="4")
    for result in Engine(load_config(conf))():
        assert inpainted(result) is not None, result.error
        keep, truth = keep_mask(), image(int(result.name[1:]))
        assert result.outputs["inpainted"].nfe == 4
        assert np.array_equal(inpainted(result)[keep], truth[keep])  # by the method itself, nothing is pasted
        assert (inpainted(result)[~keep] != truth[~keep]).mean() > 0.5


def test_td_paint_needs_a_mask(project: Project) -> None:
    conf = project(count=1, method="td_paint")
    with pytest.raises(ConfigError, match="method td_paint needs data.mask_path"):
        Engine(load_config(conf, ["data.mask_path=null"])).pairs()


def test_network_without_per_pixel_time_gives_a_warning(project: Project) -> None:
    conf = project(count=1, method="td_paint")
    [warning] = [line for line in Engine(load_config(conf)).warnings if "per_pixel_time" in line]
    assert "docs/guide/training.md" in warning and "use method repaint" in warning and "\n" not in warning
    for fine in ("per_pixel_time=true", "method=repaint"):
        assert not [w for w in Engine(load_config(conf, [fine])).warnings if "per_pixel_time" in w]


def test_td_paint_refuses_a_classifier(project: Project) -> None:
    conf = project(count=1, method="td_paint")
    with pytest.raises(ConfigError, match="set classifier_scale: 0"):
        Engine(load_config(conf, ["classifier_path=c.pt"]))
    Engine(load_config(conf, ["classifier_path=c.pt", "classifier_scale=0"]))
