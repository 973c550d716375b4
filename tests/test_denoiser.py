"""The output of a network, read as published: moments, losses, times and precision."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from guided_diffusion.build import build_process
from guided_diffusion.config.schema import ProcessConfig
from guided_diffusion.denoiser import Denoiser, Prediction, network_times
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.losses import discretized_gaussian_log_likelihood
from tests.helpers import stored

GOLDEN = stored.tensors("repaint")
PROCESS, TIMES = build_process(ProcessConfig(timestep_respacing="50"))


@dataclass(eq=False)
class Recorder(nn.Module):
    """A network that answers `out` and remembers how it was called."""

    out: Tensor
    calls: list[tuple[Tensor, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        self.calls.append((t, *label))
        return self.out


def draw(seed: int, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def off(ours: Tensor, published: Tensor) -> float:
    """Largest difference, relative for what is larger than one."""
    return float(((ours - published).abs() / published.abs().clamp(min=1)).max())


@pytest.mark.parametrize("t", [0, 1, 25, 49])
@pytest.mark.parametrize("clip", [False, True])
def test_prediction_of_a_network_is_the_published_one(t: int, clip: bool) -> None:
    denoiser = Denoiser(stored.tiny_network(), PROCESS, TIMES, clip=clip)
    x, crop = GOLDEN["pmv/x"], slice(8, 24)
    p = denoiser(x, t)
    mean = PROCESS.posterior_mean(p.x0, x, t)
    published = {k: GOLDEN[f"pmv/{t}/clip{int(clip)}/{k}"] for k in ("mean", "pred_xstart")}
    magnified = PROCESS.sqrt_recip_alphas_cumprod[t]  # what x0 makes of the network's last bit, up to 160
    assert off(mean[:, :, crop, crop], published["mean"]) < 1e-5
    assert (p.x0[:, :, crop, crop] - published["pred_xstart"]).abs().max() < 1e-5 * magnified
    assert off(p.log_variance[:, :, crop, crop], GOLDEN[f"pmv/{t}/clip0/log_variance"]) < 1e-5


@pytest.mark.parametrize("respacing", ["50", "ddim50", "250", "all"])
@pytest.mark.parametrize("pair", ["0-1", "5-20", "48-49"])
@pytest.mark.parametrize("clip", [False, True])
def test_prediction_from_an_output_is_the_published_one(respacing: str, pair: str, clip: bool) -> None:
    process, times = build_process(ProcessConfig(timestep_respacing="" if respacing == "all" else respacing))
    for i, t in enumerate(map(int, pair.split("-"))):
        x, eps, v = (GOLDEN[f"fixed/{name}"][i : i + 1] for name in ("x", "eps", "v"))
        published = {
            name: GOLDEN[f"fixed/{respacing}/{pair}/clip{int(clip)}/{name}"][i]
            for name in ("mean", "log_variance", "pred_xstart", "model_t")
        }
        network = Recorder(torch.cat([eps, v], dim=1))
        p = Denoiser(network, process, times, clip=clip)(x, t)
        assert off(process.posterior_mean(p.x0, x, t)[0], published["mean"]) < 1e-5
        assert off(p.x0[0], published["pred_xstart"]) < 1e-5
        assert off(p.log_variance[0], published["log_variance"]) < 1e-5
        assert torch.equal(network.calls[0][0], published["model_t"][None])


def test_clip_adapts_eps_to_x0() -> None:
    x = draw(0)
    for t in (3, 40):
        p = Denoiser(Recorder(3 * draw(1)), PROCESS, TIMES, learn_sigma=False)(x, t)
        assert p.x0.abs().max() == 1
        assert torch.allclose(PROCESS.q_sample(p.x0, t, p.eps), x, atol=1e-5)
    raw = Denoiser(Recorder(3 * draw(1)), PROCESS, TIMES, learn_sigma=False, clip=False)(x, 3)
    assert torch.equal(raw.eps, 3 * draw(1))


@pytest.mark.parametrize("clip", [False, True])
def test_predict_xstart_takes_the_output_as_x0(clip: bool) -> None:
    x0, x = draw(1), draw(0)
    p = Denoiser(Recorder(x0), PROCESS, TIMES, predict_xstart=True, learn_sigma=False, clip=clip)(x, 20)
    assert torch.equal(p.x0, x0.clamp(-1, 1) if clip else x0)
    assert torch.allclose(PROCESS.q_sample(p.x0, 20, p.eps), x, atol=1e-5)


def test_fixed_variance_is_beta_or_the_posterior_s() -> None:
    def log_variance(t: int, sigma_small: bool) -> Tensor:
        denoiser = Denoiser(Recorder(draw(1)), PROCESS, TIMES, learn_sigma=False, sigma_small=sigma_small)
        return denoiser(draw(0), t).log_variance

    for t in (1, 30):
        same = torch.ones(2, 3, 8, 8)
        assert torch.allclose(log_variance(t, False), same * float(np.log(PROCESS.betas[t])))
        assert torch.allclose(log_variance(t, True), same * float(np.log(PROCESS.posterior_variance[t])))
    assert torch.equal(log_variance(0, False), log_variance(0, True))  # of the last step nothing is sampled


@pytest.mark.parametrize(
    ("respacing", "rescale", "expected"),
    [
        ("4", False, [0, 133, 266, 399]),
        ("4", True, [0.0, 332.5, 665.0, 997.5]),
        ("ddim4", True, [0, 250, 500, 750]),
    ],
)
def test_network_sees_training_times(respacing: str, rescale: bool, expected: list[float]) -> None:
    config = ProcessConfig(diffusion_steps=400, timestep_respacing=respacing, rescale_timesteps=rescale)
    process, times = build_process(config)
    network = Recorder(draw(1, 6))
    for t in range(4):
        Denoiser(network, process, times, labels=torch.tensor([5, 6]))(draw(0), t)
    assert [seen[0].tolist() for seen in network.calls] == [[e] for e in expected], "one for all"
    assert all(torch.equal(seen[1], torch.tensor([5, 6])) for seen in network.calls)
    assert times.dtype == (torch.float32 if rescale else torch.int64)


def test_network_times_of_1000_steps_are_unchanged() -> None:
    assert torch.equal(network_times(range(1000), 1000, True), torch.arange(1000.0))


class Halves(nn.Module):
    """A network whose two halves have one parameter each."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.v = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(-0.2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([self.out * x, self.v * torch.ones_like(x)], dim=1)


def test_losses_train_separate_halves_of_the_output() -> None:
    t = torch.tensor([0, 17])
    for term, learner, other in ((0, "out", "v"), (1, "v", "out")):
        network = Halves()
        losses = Denoiser(network, PROCESS, TIMES, clip=False).loss(draw(0).clamp(-1, 1), t, draw(1))
        losses[term].sum().backward()
        taught, untaught = getattr(network, learner).grad, getattr(network, other).grad
        assert taught is not None and taught.abs() > 1e-6
        assert untaught is None or untaught == 0


def test_losses_equal_their_definitions() -> None:
    """By hand: mean squared error of eps; KL of the two reverse Gaussians, or the decoder's cost at t = 0."""
    network, t = Halves(), torch.tensor([0, 17])
    x0, noise = draw(0).clamp(-1, 1), draw(1)
    simple, bound, _ = Denoiser(network, PROCESS, TIMES, clip=False).loss(x0, t, noise)
    for i, step in enumerate(t.tolist()):
        a, b = PROCESS.alphas_cumprod[step], PROCESS.betas[step]
        x_t = a**0.5 * x0[i] + (1 - a) ** 0.5 * noise[i]
        eps = 0.3 * x_t
        assert simple[i].item() == pytest.approx(float(((noise[i] - eps) ** 2).mean()), rel=1e-4)
        before = PROCESS.alphas_cumprod_prev[step]

        def mean(
            clean: Tensor, a: float = a, b: float = b, x_t: Tensor = x_t, before: float = before
        ) -> Tensor:
            return (before**0.5 * b * clean + (1 - b) ** 0.5 * (1 - before) * x_t) / (1 - a)

        guess = (x_t - (1 - a) ** 0.5 * eps) / a**0.5
        small = PROCESS.posterior_log_variance_clipped[step]
        log_variance = torch.tensor(0.4 * np.log(b) + 0.6 * small)  # v = -0.2
        if step:
            true = Normal(mean(x0[i]), float(np.exp(small / 2)))
            nats = kl_divergence(true, Normal(mean(guess), (log_variance / 2).exp())).mean()
        else:
            scales = torch.full_like(guess, float(log_variance / 2))
            nats = -discretized_gaussian_log_likelihood(x0[i], mean(guess), scales).mean()
        assert bound[i].item() == pytest.approx(float(nats) / np.log(2), rel=2e-3)


def test_losses_of_a_perfect_network_are_zero() -> None:
    x0, noise, t = draw(0), draw(1), torch.tensor([4, 40])
    posterior = -torch.ones_like(x0)  # v = -1: the posterior's variance
    denoiser = Denoiser(Recorder(torch.cat([noise, posterior], dim=1)), PROCESS, TIMES, clip=False)
    simple, bound, _ = denoiser.loss(x0, t, noise)
    assert torch.equal(simple, torch.zeros(2))
    assert bound.abs().max() < 1e-4


def test_loss_of_predict_xstart_is_the_error_of_x0() -> None:
    x0, t = draw(0), torch.tensor([4, 40])
    denoiser = Denoiser(Recorder(x0 + 0.5), PROCESS, TIMES, predict_xstart=True, learn_sigma=False)
    simple, bound, _ = denoiser.loss(x0, t, draw(1))
    assert torch.allclose(simple, torch.full((2,), 0.25), atol=1e-6)
    assert torch.equal(bound, torch.zeros(2))


class Cast(nn.Module):
    """A convolution, and the type in which it answered."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)
        self.answered: list[torch.dtype] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out = self.conv(x)
        self.answered.append(out.dtype)
        return out


@pytest.mark.parametrize(
    ("autocast", "dtype"),
    [(None, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16)],
)
def test_autocast_stays_inside_the_network(autocast: torch.dtype | None, dtype: torch.dtype) -> None:
    network = Cast()
    exact = Denoiser(network, PROCESS, TIMES)(draw(0), 10)
    p = Denoiser(network, PROCESS, TIMES, autocast=autocast)(draw(0), 10)
    assert network.answered == [torch.float32, dtype]
    assert {x.dtype for x in (p.x0, p.eps, p.log_variance)} == {torch.float32}
    assert torch.allclose(p.x0, exact.x0, atol=0.02)


def test_denoiser_builds_no_graph() -> None:
    p = Denoiser(Halves(), PROCESS, TIMES)(draw(0), 10)
    assert isinstance(p, Prediction)
    assert not p.x0.requires_grad and p.score is None


def test_times_and_process_agree_in_length() -> None:
    process, times = build_process(ProcessConfig(timestep_respacing="10,15,25"))
    assert isinstance(process, GaussianDiffusion)
    assert len(times) == process.num_timesteps == 50


# clean pixels beside noisy ones


KNOWN = torch.zeros(2, 1, 8, 8)
KNOWN[0, :, :, :3] = KNOWN[1, :, 5:] = 1


@pytest.mark.parametrize("rescale", [False, True])
def test_network_sees_time_0_at_clean_pixels(rescale: bool) -> None:
    config = ProcessConfig(diffusion_steps=400, timestep_respacing="4", rescale_timesteps=rescale)
    process, times = build_process(config)
    network = Recorder(draw(1, 6))
    Denoiser(network, process, times, labels=torch.tensor([5, 6]))(draw(0), 2, KNOWN)
    [(seen, labels)] = network.calls
    expected = (665.0 if rescale else 266.0) * (1 - KNOWN)
    assert torch.equal(seen, expected) and labels.tolist() == [5, 6]


def test_windows_of_a_batch_have_the_labels_of_their_images() -> None:
    process, times = build_process(ProcessConfig(timestep_respacing="4"))
    network = Recorder(draw(1, 6).repeat(3, 1, 1, 1))
    Denoiser(network, process, times, labels=torch.tensor([5, 6]))(draw(0).repeat(3, 1, 1, 1), 2)
    assert network.calls[0][1].tolist() == [5, 6] * 3


@pytest.mark.parametrize("clip", [False, True])
def test_prediction_keeps_clean_pixels(clip: bool) -> None:
    denoiser, x = Denoiser(Recorder(2 * draw(1, 6)), PROCESS, TIMES, clip=clip), draw(0)
    plain, p = denoiser(x, 30), denoiser(x, 30, KNOWN)
    known = KNOWN.bool().expand_as(x)
    assert torch.equal(p.x0[known], x[known]) and torch.equal(p.x0[~known], plain.x0[~known])
    assert torch.equal(p.eps[~known], plain.eps[~known])
    assert torch.equal(p.log_variance, plain.log_variance) and p.score is None
    assert torch.allclose(PROCESS.q_sample(p.x0, 30, p.eps), x, atol=1e-5)


class Listening(nn.Module):
    """Answers eps and v from what it sees and remembers it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen.append((x, t))
        return torch.cat([0.3 * x, 0.1 * x], dim=1)


def test_loss_shows_known_pixels_clean_at_time_0() -> None:
    network, t = Listening(), torch.tensor([0, 17])
    x0, noise = draw(0).clamp(-1, 1), draw(1)
    Denoiser(network, PROCESS, TIMES, clip=False).loss(x0, t, noise, KNOWN)
    [(x, times)] = network.seen
    assert torch.equal(x, torch.where(KNOWN.bool(), x0, PROCESS.q_sample(x0, t, noise)))
    assert torch.equal(times, torch.where(KNOWN.bool(), 0.0, TIMES[t][:, None, None, None].float()))


def test_loss_is_the_mean_over_unknown_pixels() -> None:
    """Whatever is wanted at the known pixels, or answered there, nothing changes; elsewhere it does."""
    t, x0, noise = torch.tensor([0, 17]), draw(0).clamp(-1, 1), draw(1)
    known = KNOWN.bool().expand_as(x0)

    def losses(x0: Tensor, noise: Tensor, out: Tensor) -> Tensor:
        return torch.stack(
            Denoiser(Recorder(out), PROCESS, TIMES, clip=False).loss(x0, t, noise, KNOWN, (2,))
        )

    out, other = draw(2, 6), torch.where(known, draw(3), noise)
    once = losses(x0, noise, out)
    assert torch.equal(losses(torch.where(known, draw(4).clamp(-1, 1), x0), noise, out), once)
    assert torch.equal(losses(x0, other, out), once)
    assert torch.equal(losses(x0, noise, torch.where(known.repeat(1, 2, 1, 1), draw(5, 6), out)), once)
    assert (losses(x0, torch.where(known, noise, draw(3)), out) - once).abs().min() > 1e-3
    for i in range(2):
        error = ((noise - out[:, :3]) ** 2)[i][~known[i]]
        assert once[0, i].item() == pytest.approx(float(error.mean()), rel=1e-5)


def test_loss_without_known_pixels_is_the_plain_loss() -> None:
    t, x0, noise = torch.tensor([0, 17]), draw(0).clamp(-1, 1), draw(1)
    denoiser = Denoiser(Halves(), PROCESS, TIMES, clip=False)
    for plain, masked in zip(
        denoiser.loss(x0, t, noise), denoiser.loss(x0, t, noise, torch.zeros(2, 1, 8, 8)), strict=True
    ):
        assert torch.allclose(plain, masked, rtol=1e-5)
