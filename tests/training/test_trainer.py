import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guided_diffusion.errors import CheckpointError, ConfigError, TrainingError
from guided_diffusion.runtime import distributed, hardware
from guided_diffusion.training.trainer import Trainer
from tests.helpers.training import images, trainer, waken

CPU = torch.device("cpu")


def gradients(folder: Path, microbatch: int) -> dict[str, Tensor]:
    run = trainer(folder, batch_size=5, microbatch=microbatch)
    waken(run.network)
    noise = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    weights = torch.tensor([0.5, 1.0, 2.0, 0.25, 1.5])
    losses = run.accumulate(run.network, images(5), torch.tensor([3, 0, 1, 2, 3]), weights, noise)
    assert losses.shape == (5,)
    # The report shows the weighted mean, which estimates the mean over uniform times.
    assert run.totals[0].item() == pytest.approx((losses * weights).mean().item(), rel=1e-5)
    return {name: p.grad for name, p in run.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("microbatch", [1, 2, 5, 9])
def test_microbatches_give_the_same_gradients(tmp_path: Path, microbatch: int) -> None:
    whole, pieces = gradients(tmp_path, 0), gradients(tmp_path, microbatch)
    assert whole.keys() == pieces.keys() and len(whole) > 50
    size = math.sqrt(sum(float(g.square().sum()) for g in whole.values()))
    for name in whole:
        assert float((whole[name] - pieces[name]).norm()) < 1e-6 * size, name


def test_one_step_is_adamw_by_hand(tmp_path: Path) -> None:
    """First AdamW step: every weight decays by lr * decay and moves by lr * g / (|g| + eps)."""
    run = trainer(tmp_path, weight_decay=0.1, grad_clip=1e9, lr=1e-3)
    waken(run.network)
    before = {name: p.detach().clone() for name, p in run.network.named_parameters()}
    seen: dict[str, Tensor] = {}
    run.optimizer.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in run.network.named_parameters()})
    )
    run.train_step(run.network, images(2))
    for name, parameter in run.network.named_parameters():
        g = seen[name].double()
        wanted = before[name].double() * (1 - 1e-4) - 1e-3 * g / (g.abs() + 1e-8)
        assert torch.allclose(parameter.double(), wanted, atol=1e-6), name
    norm = math.sqrt(sum(float(g.square().sum()) for g in seen.values()))
    assert run.report()["grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_gradients_are_clipped_to_their_norm(tmp_path: Path) -> None:
    run = trainer(tmp_path, grad_clip=0.01)
    norms: list[float] = []
    run.optimizer.register_step_pre_hook(
        lambda *_: norms.append(
            math.sqrt(sum(float(p.grad.square().sum()) for p in run.network.parameters()))
        )
    )
    run.train_step(run.network, images(2))
    assert norms == [pytest.approx(0.01, rel=1e-3)]


@pytest.mark.parametrize(
    ("step", "warmup", "anneal", "share"),
    [(0, 0, 0, 1.0), (999, 0, 0, 1.0), (0, 4, 0, 0.25), (3, 4, 0, 1.0), (4, 4, 0, 1.0)]
    + [(0, 0, 10, 1.0), (5, 0, 10, 0.5), (9, 0, 10, 0.1), (1, 4, 10, 0.45)],
)
def test_learning_rate(tmp_path: Path, step: int, warmup: int, anneal: int, share: float) -> None:
    run = trainer(tmp_path, warmup_steps=warmup, lr_anneal_steps=anneal)
    run.step = step
    assert run.learning_rate() == pytest.approx(1e-3 * share)


def test_the_average_follows_its_recursion(tmp_path: Path) -> None:
    run = trainer(tmp_path, ema_rate=0.3)
    average = [p.detach().double() for p in run.network.parameters()]
    for step in range(1, 5):
        run.train_step(run.network, images(2, step))
        rate = min(0.3, (1 + step) / (10 + step))  # 2/11, 3/12, then 0.3
        weights = [p.detach().double() for p in run.network.parameters()]
        average = [rate * a + (1 - rate) * w for a, w in zip(average, weights, strict=True)]
    for own, wanted in zip(run.ema.parameters(), average, strict=True):
        assert torch.allclose(own.double(), wanted, atol=1e-7)


def test_draws_depend_on_seed_step_and_rank_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draws(step: int, rank: int = 0, seed: int = 0, mixed: bool = True) -> tuple[Tensor | None, ...]:
        run = trainer(tmp_path, seed=seed, per_pixel_time=mixed)
        run.step = step
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        torch.rand(3)  # torch's own generator must not matter
        return run._draws(torch.zeros(16, 3, 16, 16))

    once = draws(7)
    assert all(torch.equal(a, b) for a, b in zip(once, draws(7), strict=True))
    for other in (draws(8), draws(7, rank=1), draws(7, seed=1)):
        assert not torch.equal(once[2], other[2]) and not torch.equal(once[3], other[3])
    *plain, nothing = draws(7, mixed=False)
    assert nothing is None and all(torch.equal(a, b) for a, b in zip(once[:3], plain, strict=True))


def test_dropout_is_the_same_after_a_resume(tmp_path: Path) -> None:
    def after_two(pause: bool) -> Tensor:
        run = trainer(tmp_path / str(pause), dropout=0.5)
        run.train_step(run.network, images(2))
        if pause:
            run.save()
            run = trainer(tmp_path / str(pause), dropout=0.5)
            run.restore()
            torch.rand(5)
        run.train_step(run.network, images(2, 1))
        return torch.cat([p.detach().flatten() for p in run.network.parameters()])

    assert torch.equal(after_two(False), after_two(True))


@pytest.mark.parametrize(
    ("native", "asked", "used"), [(True, True, "bf16"), (False, True, "fp32"), (True, False, "fp32")]
)
def test_bf16_only_where_asked_and_native(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool, asked: bool, used: str
) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda _device: native)
    run = trainer(tmp_path, bf16=asked)
    seen: set[torch.dtype] = set()
    for module in run.network.modules():
        # The last layer is in float32 always; tests/test_unet.py says so.
        if isinstance(module, nn.Conv2d) and module is not run.network.out[-1]:
            module.register_forward_hook(lambda _m, _i, out: seen.add(out.dtype))
    run.train_step(run.network, images(2))
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[used]
    assert seen == {dtype}
    assert all(p.dtype == torch.float32 for p in run.network.parameters())
    assert run.totals.isfinite().all()


def test_the_hybrid_loss_trains_mean_and_variance(tmp_path: Path) -> None:
    """On one batch, over and over, both parts of the loss fall."""
    run = trainer(tmp_path, lr=3e-3, batch_size=4, diffusion_steps=50, rescale_learned_sigmas=True)
    x0, t = images(4), torch.tensor([5, 20, 35, 49])
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
    rescaled, plain = (trainer(tmp_path, rescale_learned_sigmas=flag)._bound_scale for flag in (True, False))
    assert (rescaled, plain) == (4 / 1000, 1.0)


def test_start_from_gives_the_weights_until_there_is_a_state(tmp_path: Path) -> None:
    given = trainer(tmp_path / "given")
    waken(given.ema)
    given.save()
    path = str(tmp_path / "given" / "out" / "tiny.pt")
    run = trainer(tmp_path / "run", start_from=path, seed=1)
    run.restore()
    for network in (run.network, run.ema):
        for own, wanted in zip(network.parameters(), given.ema.parameters(), strict=True):
            assert torch.equal(own, wanted.half().float())
    assert all(p.requires_grad for p in run.network.parameters()) and run.network.training
    assert not any(p.requires_grad for p in run.ema.parameters())
    run.train_step(run.network, images(2))
    run.save()
    again = trainer(tmp_path / "run", start_from="gone.pt")
    again.restore()
    assert again.step == 1
    for own, wanted in zip(again.network.parameters(), run.network.parameters(), strict=True):
        assert torch.equal(own, wanted)


def test_weights_that_cannot_be_started_from_are_refused(tmp_path: Path) -> None:
    trainer(tmp_path / "given").save()
    path = str(tmp_path / "given" / "out" / "tiny.pt")
    told = refusal(tmp_path / "run", start_from=path, num_channels=64)
    assert told.startswith("start_from: ") and "num_channels: 32" in told
    assert "gone.pt is not there" in refusal(tmp_path / "run", start_from="gone.pt")


def test_a_fixed_variance_has_no_bound(tmp_path: Path) -> None:
    run = trainer(tmp_path, learn_sigma=False, predict_xstart=True)
    run.train_step(run.network, images(2))
    means = run.report()
    assert means["bound"] == 0 and means["loss"] == means["simple"] > 0


def test_report_is_the_mean_since_the_last_one(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.totals, run.counted, run.step = torch.tensor([6.0, 4.0, 2.0, 1.0]), 2, 9
    assert run.report() == {"loss": 3, "simple": 2, "bound": 1, "grad_norm": 0.5, "lr": 1e-3}
    assert run.counted == 0 and not run.totals.any()


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.train_step(run.network, images(2))
    run.check()
    run.train_step(run.network, images(2) * math.nan)
    with pytest.raises(TrainingError, match="no longer finite between steps 0 and 2; .*lower lr") as caught:
        run.check()
    assert "\n" not in str(caught.value)


def test_save_and_restore_are_inverse(tmp_path: Path) -> None:
    run = trainer(tmp_path, schedule_sampler="loss-aware")
    for step in range(3):
        run.train_step(run.network, images(2, step))
    run.save()
    again = trainer(tmp_path, schedule_sampler="loss-aware", weight_decay=0.5)
    again.restore()
    assert (again.step, again.counted) == (3, 3) and torch.equal(again.totals, run.totals)
    assert again.seconds == pytest.approx(run.seconds, abs=5)
    assert again.optimizer.param_groups[0]["weight_decay"] == 0.5  # what the YAML says now
    assert np.array_equal(again.t_sampler.losses, run.t_sampler.losses)  # type: ignore[attr-defined]
    assert again.t_sampler.seen.sum() == 6  # type: ignore[attr-defined]
    run.train_step(run.network, images(2, 9))
    again.optimizer.param_groups[0]["weight_decay"] = 0.0
    again.train_step(again.network, images(2, 9))
    for a, b in zip(run.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["state.pt", "tiny.pt"]


def test_a_state_is_read_on_the_cpu_where_adamw_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AdamW leaves its counters where they were read; on a GPU it would wait for each of them, each step."""
    run = trainer(tmp_path)
    run.train_step(run.network, images(2))
    run.save()
    load, places = torch.load, []

    def spy(*arguments: Any, map_location: Any, **more: Any) -> Any:
        places.append(torch.device(map_location))
        return load(*arguments, map_location=map_location, **more)

    monkeypatch.setattr(torch, "load", spy)
    elsewhere = Trainer(run.config, CPU)
    elsewhere.device = torch.device("meta")
    elsewhere.restore()
    assert places == [CPU] and elsewhere.totals.is_meta
    steps = [moments["step"] for moments in elsewhere.optimizer.state.values()]
    assert {step.device for step in steps} == {CPU} and {float(step) for step in steps} == {1.0}


def test_a_state_without_counters_is_taken(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.train_step(run.network, images(2))
    run.save()
    path = run.state_path
    content = torch.load(path, weights_only=True)
    del content["totals"], content["counted"]
    torch.save(content, path)
    again = trainer(tmp_path)
    again.restore()
    assert (again.step, again.counted) == (1, 0) and not again.totals.any()


def test_saved_weights_are_the_average_in_half(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.train_step(run.network, images(2))
    run.save()
    saved = torch.load(tmp_path / "out" / "tiny.pt", weights_only=True)
    own = run.ema.state_dict()
    assert saved.keys() == own.keys()
    assert all(torch.equal(saved[key], own[key].half()) for key in own)


def refusal(folder: Path, **keys: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        trainer(folder, **keys).restore()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_network_is_refused_with_the_keys_that_fit(tmp_path: Path) -> None:
    trainer(tmp_path).save()
    wider = refusal(tmp_path, num_channels=64)
    assert f"{tmp_path}/out" in wider and "set num_channels: 32 again" in wider and "another name" in wider
    assert "set learn_sigma: True again" in refusal(tmp_path, learn_sigma=False)
    assert "num_res_blocks: 1" in refusal(tmp_path, num_res_blocks=2)


def test_loss_aware_state_of_other_times_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, schedule_sampler="loss-aware").save()
    told = refusal(tmp_path, schedule_sampler="loss-aware", diffusion_steps=7)
    assert "set diffusion_steps: 4" in told and "another name" in told


def test_t_samplers_may_be_exchanged(tmp_path: Path) -> None:
    trainer(tmp_path).save()
    aware = trainer(tmp_path, schedule_sampler="loss-aware")
    aware.restore()
    aware.save()
    plain = trainer(tmp_path)
    plain.restore()
    for mine, its in zip(plain.network.parameters(), aware.network.parameters(), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut off"])
def test_a_broken_state_is_refused(tmp_path: Path, content: bytes) -> None:
    run = trainer(tmp_path)
    run.state_path.parent.mkdir()
    run.state_path.write_bytes(content)
    told = refusal(tmp_path)
    assert str(run.state_path) in told and "delete it to begin anew" in told


def test_a_process_that_cannot_be_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="diffusion_steps 4 is too few"):
        trainer(tmp_path, noise_schedule="linear")
