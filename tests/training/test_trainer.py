"""The trainer of a prior: one step, saving and restoring, reports."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guided_diffusion.errors import CheckpointError, ConfigError, TrainingError
from guided_diffusion.runtime import distributed
from guided_diffusion.training.prior_trainer import PriorTrainer
from tests.helpers.training import CODEC, perturb_weights, random_images, tiny_trainer

CPU = torch.device("cpu")


def gradients(folder: Path, microbatch: int) -> dict[str, Tensor]:
    run = tiny_trainer(folder, batch_size=5, microbatch=microbatch)
    perturb_weights(run.network)
    noise = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    weights = torch.tensor([0.5, 1.0, 2.0, 0.25, 1.5])
    losses = run.accumulate(run.network, random_images(5), torch.tensor([3, 0, 1, 2, 3]), weights, noise)
    assert losses.shape == (5,)
    # The report shows the weighted mean, which estimates the mean over uniform times.
    assert run.totals[0].item() == pytest.approx((losses * weights).mean().item(), rel=1e-5)
    return {name: p.grad for name, p in run.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("microbatch", [1, 2, 5, 9])
def test_accumulate_gives_same_gradients_in_microbatches(tmp_path: Path, microbatch: int) -> None:
    whole, pieces = gradients(tmp_path, 0), gradients(tmp_path, microbatch)
    assert whole.keys() == pieces.keys() and len(whole) > 50
    size = math.sqrt(sum(float(g.square().sum()) for g in whole.values()))
    for name in whole:
        assert float((whole[name] - pieces[name]).norm()) < 1e-6 * size, name


def test_train_step_is_adamw(tmp_path: Path) -> None:
    """First AdamW step: every weight decays by lr * decay and moves by lr * g / (|g| + eps)."""
    run = tiny_trainer(tmp_path, weight_decay=0.1, grad_clip=1e9, lr=1e-3)
    perturb_weights(run.network)
    before = {name: p.detach().clone() for name, p in run.network.named_parameters()}
    seen: dict[str, Tensor] = {}
    run.optimizer.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in run.network.named_parameters()})
    )
    run.train_step(run.network, random_images(2))
    for name, parameter in run.network.named_parameters():
        g = seen[name].double()
        wanted = before[name].double() * (1 - 1e-4) - 1e-3 * g / (g.abs() + 1e-8)
        assert torch.allclose(parameter.double(), wanted, atol=1e-6), name
    norm = math.sqrt(sum(float(g.square().sum()) for g in seen.values()))
    assert run.report()["grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_train_step_clips_gradient_norm(tmp_path: Path) -> None:
    run = tiny_trainer(tmp_path, grad_clip=0.01)
    norms: list[float] = []
    run.optimizer.register_step_pre_hook(
        lambda *_: norms.append(
            math.sqrt(sum(float(p.grad.square().sum()) for p in run.network.parameters()))
        )
    )
    run.train_step(run.network, random_images(2))
    assert norms == [pytest.approx(0.01, rel=1e-3)]


@pytest.mark.parametrize(
    ("step", "warmup", "anneal", "share"),
    [(0, 0, 0, 1.0), (999, 0, 0, 1.0), (0, 4, 0, 0.25), (3, 4, 0, 1.0), (4, 4, 0, 1.0)]
    + [(0, 0, 10, 1.0), (5, 0, 10, 0.5), (9, 0, 10, 0.1), (1, 4, 10, 0.45)],
)
def test_learning_rate_warms_up_and_anneals(
    tmp_path: Path, step: int, warmup: int, anneal: int, share: float
) -> None:
    run = tiny_trainer(tmp_path, warmup_steps=warmup, lr_anneal_steps=anneal)
    run.step = step
    assert run.learning_rate() == pytest.approx(1e-3 * share)


def test_ema_follows_its_recursion(tmp_path: Path) -> None:
    run = tiny_trainer(tmp_path, ema_rate=0.3)
    average = [p.detach().double() for p in run.network.parameters()]
    for step in range(1, 5):
        run.train_step(run.network, random_images(2, step))
        rate = min(0.3, (1 + step) / (10 + step))  # 2/11, 3/12, then 0.3
        weights = [p.detach().double() for p in run.network.parameters()]
        average = [rate * a + (1 - rate) * w for a, w in zip(average, weights, strict=True)]
    for actual, wanted in zip(run.ema.parameters(), average, strict=True):
        assert torch.allclose(actual.double(), wanted, atol=1e-7)


def test_draw_depends_on_seed_step_and_rank_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draws(step: int, rank: int = 0, seed: int = 0, mixed: bool = True) -> tuple[Tensor | None, ...]:
        run = tiny_trainer(tmp_path, seed=seed, per_pixel_time=mixed)
        run.step = step
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        torch.rand(3)  # torch's own generator must not matter
        return run.draw(torch.zeros(16, 3, 16, 16))

    first = draws(7)
    assert all(torch.equal(a, b) for a, b in zip(first, draws(7), strict=True))
    for other in (draws(8), draws(7, rank=1), draws(7, seed=1)):
        assert not torch.equal(first[2], other[2]) and not torch.equal(first[3], other[3])
    *plain, clean_mask = draws(7, mixed=False)
    assert clean_mask is None and all(torch.equal(a, b) for a, b in zip(first[:3], plain, strict=True))


def test_dropout_is_the_same_after_resume(tmp_path: Path) -> None:
    def after_two(pause: bool) -> Tensor:
        run = tiny_trainer(tmp_path / str(pause), dropout=0.5)
        run.train_step(run.network, random_images(2))
        if pause:
            run.save()
            run = tiny_trainer(tmp_path / str(pause), dropout=0.5)
            run.restore()
            torch.rand(5)
        run.train_step(run.network, random_images(2, 1))
        return torch.cat([p.detach().flatten() for p in run.network.parameters()])

    assert torch.equal(after_two(False), after_two(True))


@pytest.mark.parametrize(
    ("native", "asked", "used"), [(True, True, "bf16"), (False, True, "fp32"), (True, False, "fp32")]
)
def test_bf16_is_used_where_asked_and_native(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool, asked: bool, used: str
) -> None:
    monkeypatch.setattr("guided_diffusion.training.trainer.has_bf16", lambda _device: native)
    run = tiny_trainer(tmp_path, bf16=asked)
    seen: set[torch.dtype] = set()
    for module in run.network.modules():
        # The last layer is in float32 always; tests/test_unet.py says so.
        if isinstance(module, nn.Conv2d) and module is not run.network.out[-1]:
            module.register_forward_hook(lambda _m, _i, out: seen.add(out.dtype))
    run.train_step(run.network, random_images(2))
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[used]
    assert seen == {dtype}
    assert all(p.dtype == torch.float32 for p in run.network.parameters())
    assert run.totals.isfinite().all()


def test_accumulate_trains_mean_and_variance(tmp_path: Path) -> None:
    """On one batch, step after step, both terms of the loss fall."""
    run = tiny_trainer(tmp_path, lr=3e-3, batch_size=4, diffusion_steps=50, rescale_learned_sigmas=True)
    x0, t = random_images(4), torch.tensor([5, 20, 35, 49])
    noise = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        before = [part.mean() for part in run.denoiser(run.network).loss(x0, t, noise)]
    for _ in range(20):
        run.accumulate(run.network, x0, t, torch.ones(4), noise)
        run.optimizer.step()
        run.optimizer.zero_grad()
    with torch.no_grad():
        after = [part.mean() for part in run.denoiser(run.network).loss(x0, t, noise)]
    assert after[0] < 0.9 * before[0] and after[1] < 0.5 * before[1]
    rescaled, plain = (
        tiny_trainer(tmp_path, rescale_learned_sigmas=flag)._bound_scale for flag in (True, False)
    )
    assert (rescaled, plain) == (4 / 1000, 1.0)


def test_start_from_counts_until_there_is_a_state(tmp_path: Path) -> None:
    source = tiny_trainer(tmp_path / "source")
    perturb_weights(source.ema)
    source.save()
    path = str(tmp_path / "source" / "out" / "tiny.pt")
    run = tiny_trainer(tmp_path / "run", start_from=path, seed=1)
    run.restore()
    for network in (run.network, run.ema):
        for actual, wanted in zip(network.parameters(), source.ema.parameters(), strict=True):
            assert torch.equal(actual, wanted.half().float())
    assert all(p.requires_grad for p in run.network.parameters()) and run.network.training
    assert not any(p.requires_grad for p in run.ema.parameters())
    run.train_step(run.network, random_images(2))
    run.save()
    again = tiny_trainer(tmp_path / "run", start_from="gone.pt")
    again.restore()
    assert again.step == 1
    for actual, wanted in zip(again.network.parameters(), run.network.parameters(), strict=True):
        assert torch.equal(actual, wanted)


def test_weights_that_cannot_be_started_from_are_refused(tmp_path: Path) -> None:
    tiny_trainer(tmp_path / "source").save()
    path = str(tmp_path / "source" / "out" / "tiny.pt")
    message = refusal(tmp_path / "run", start_from=path, num_channels=64)
    assert message.startswith("start_from: ") and "num_channels: 32" in message
    assert "gone.pt is not there" in refusal(tmp_path / "run", start_from="gone.pt")


def test_report_has_no_bound_with_fixed_variance(tmp_path: Path) -> None:
    run = tiny_trainer(tmp_path, learn_sigma=False, predict_xstart=True)
    run.train_step(run.network, random_images(2))
    means = run.report()
    assert means["bound"] == 0 and means["loss"] == means["simple"] > 0


def test_report_is_the_mean_since_the_last_report(tmp_path: Path) -> None:
    run = tiny_trainer(tmp_path)
    run.totals, run.steps_in_totals, run.step = torch.tensor([6.0, 4.0, 2.0, 1.0]), 2, 9
    assert run.report() == {"loss": 3, "simple": 2, "bound": 1, "grad_norm": 0.5, "lr": 1e-3}
    assert run.steps_in_totals == 0 and not run.totals.any()


def test_check_finite_raises_on_nan(tmp_path: Path) -> None:
    run = tiny_trainer(tmp_path)
    run.train_step(run.network, random_images(2))
    run.check_finite()
    run.train_step(run.network, random_images(2) * math.nan)
    with pytest.raises(TrainingError, match="no longer finite between steps 0 and 2; .*lower lr") as caught:
        run.check_finite()
    assert "\n" not in str(caught.value)


def test_restore_inverts_save(tmp_path: Path) -> None:
    run = tiny_trainer(tmp_path, schedule_sampler="loss-aware")
    for step in range(3):
        run.train_step(run.network, random_images(2, step))
    run.save()
    again = tiny_trainer(tmp_path, schedule_sampler="loss-aware", weight_decay=0.5)
    begin, seconds = time.monotonic(), torch.load(run.state_path, weights_only=True)["seconds"]
    again.restore()
    assert (again.step, again.steps_in_totals) == (3, 3) and torch.equal(again.totals, run.totals)
    assert seconds <= again.seconds <= seconds + time.monotonic() - begin
    assert again.optimizer.param_groups[0]["weight_decay"] == 0.5  # what the YAML says now
    assert np.array_equal(again.t_sampler.losses, run.t_sampler.losses)  # type: ignore[attr-defined]
    assert again.t_sampler.seen.sum() == 6  # type: ignore[attr-defined]
    run.train_step(run.network, random_images(2, 9))
    again.optimizer.param_groups[0]["weight_decay"] = 0.0
    again.train_step(again.network, random_images(2, 9))
    for a, b in zip(run.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["state.pt", "tiny.pt"]


def test_restore_reads_state_on_cpu_where_adamw_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AdamW keeps its counters where they were loaded; on a GPU each step would wait for them."""
    run = tiny_trainer(tmp_path)
    run.train_step(run.network, random_images(2))
    run.save()
    load, places = torch.load, []

    def spy(*arguments: Any, map_location: Any, **others: Any) -> Any:
        places.append(torch.device(map_location))
        return load(*arguments, map_location=map_location, **others)

    monkeypatch.setattr(torch, "load", spy)
    elsewhere = PriorTrainer(run.config, CPU, CODEC)
    elsewhere.device = torch.device("meta")
    elsewhere.restore()
    assert places == [CPU] and elsewhere.totals.is_meta
    steps = [moments["step"] for moments in elsewhere.optimizer.state.values()]
    assert {step.device for step in steps} == {CPU} and {float(step) for step in steps} == {1.0}


def test_restore_takes_state_without_counters(tmp_path: Path) -> None:
    run = tiny_trainer(tmp_path)
    run.train_step(run.network, random_images(2))
    run.save()
    path = run.state_path
    content = torch.load(path, weights_only=True)
    del content["totals"], content["counted"]
    torch.save(content, path)
    again = tiny_trainer(tmp_path)
    again.restore()
    assert (again.step, again.steps_in_totals) == (1, 0) and not again.totals.any()


def test_save_writes_average_in_half_precision(tmp_path: Path) -> None:
    run = tiny_trainer(tmp_path)
    run.train_step(run.network, random_images(2))
    run.save()
    saved = torch.load(tmp_path / "out" / "tiny.pt", weights_only=True)
    averages = run.ema.state_dict()
    assert saved.keys() == averages.keys()
    assert all(torch.equal(saved[key], averages[key].half()) for key in averages)


def refusal(folder: Path, **keys: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        tiny_trainer(folder, **keys).restore()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_restore_names_keys_of_another_network(tmp_path: Path) -> None:
    tiny_trainer(tmp_path).save()
    wider = refusal(tmp_path, num_channels=64)
    assert f"{tmp_path}/out" in wider and "set num_channels: 32 again" in wider and "another name" in wider
    assert "set learn_sigma: True again" in refusal(tmp_path, learn_sigma=False)
    assert "num_res_blocks: 1" in refusal(tmp_path, num_res_blocks=2)


def test_restore_refuses_loss_aware_state_of_other_timesteps(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, schedule_sampler="loss-aware").save()
    message = refusal(tmp_path, schedule_sampler="loss-aware", diffusion_steps=7)
    assert "set diffusion_steps: 4" in message and "another name" in message


def test_restore_accepts_another_timestep_sampler(tmp_path: Path) -> None:
    tiny_trainer(tmp_path).save()
    aware = tiny_trainer(tmp_path, schedule_sampler="loss-aware")
    aware.restore()
    aware.save()
    plain = tiny_trainer(tmp_path)
    plain.restore()
    for first, second in zip(plain.network.parameters(), aware.network.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut off"])
def test_restore_refuses_broken_state(tmp_path: Path, content: bytes) -> None:
    run = tiny_trainer(tmp_path)
    run.state_path.parent.mkdir()
    run.state_path.write_bytes(content)
    message = refusal(tmp_path)
    assert str(run.state_path) in message and "delete it to begin anew" in message


def test_prior_trainer_refuses_impossible_process(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="diffusion_steps 4 is too few"):
        tiny_trainer(tmp_path, noise_schedule="linear")
