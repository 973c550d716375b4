"""Learning a time per pixel: what the network is given clean, and that it learns from the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from guided_diffusion.training import clean_pixels
from guided_diffusion.training.clean_pixels import draw_known
from guided_diffusion.training.trainer import Trainer
from tests.helpers.training import tiny


@pytest.mark.parametrize("size", [8, 12, 16, 64])
def test_no_picture_is_clean_all_over_and_a_third_is_noisy_all_over(size: int) -> None:
    drawn = draw_known(600, size, np.random.default_rng(0))
    assert drawn.shape == (600, 1, size, size) and drawn.dtype == bool
    shares = drawn.mean((1, 2, 3))
    assert shares.max() < 1
    assert (shares == 0).mean() == pytest.approx(1 / 3, abs=0.06)
    assert 0.3 < shares[shares > 0].mean() < 0.9


def test_the_same_generator_draws_the_same() -> None:
    once, again, other = (draw_known(8, 16, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(once, again) and not np.array_equal(once, other)


def test_squares_are_whole_and_of_all_sides_and_shares() -> None:
    rng, sides, shares = np.random.default_rng(0), set(), []
    for _ in range(300):
        mask = clean_pixels._squares(16, rng)
        # The largest side of which the mask is made, by undoing: every tile of that side is uniform.
        tiles = {side: mask.reshape(16 // side, side, 16 // side, side) for side in (1, 2, 4, 8)}
        whole = [side for side, tile in tiles.items() if (tile.all((1, 3)) | ~tile.any((1, 3))).all()]
        sides.add(max(whole))
        shares.append(mask.mean())
        assert not mask.all()
    assert sides == {1, 2, 4, 8}
    assert np.histogram(shares, 4, (0, 1))[0].min() > 30


def test_strokes_and_squares_have_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[str] = []
    hole = np.zeros((16, 16), dtype=bool)
    monkeypatch.setattr(clean_pixels, "make_mask", lambda kind, size, rng: (kinds.append(kind), hole)[1])
    monkeypatch.setattr(clean_pixels, "_squares", lambda size, rng: (kinds.append("squares"), hole)[1])
    draw_known(3000, 16, np.random.default_rng(0))
    shares = {kind: kinds.count(kind) / 3000 for kind in ("thick", "thin", "squares")}
    assert shares == pytest.approx({"thick": 0.3, "thin": 0.3, "squares": 1 / 15}, abs=0.03)


# the trainer


def trainer(folder: Path, **keys: object) -> Trainer:
    return Trainer(tiny(folder, per_pixel_time=True, **keys), torch.device("cpu"))


def images(count: int) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_clean_pixels_beside_noisy_ones_are_learnt_from(tmp_path: Path) -> None:
    """On one batch with one map, over and over, both parts of the loss fall; microbatches take their part."""
    run = trainer(tmp_path, lr=3e-3, batch_size=4, microbatch=3, diffusion_steps=50)
    x0, t = images(4), torch.tensor([5, 20, 35, 49])
    noise = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    clean = torch.zeros(4, 1, 16, 16)
    clean[1:, :, 4:] = 1

    def losses() -> Tensor:
        with torch.no_grad():
            return torch.stack(run.denoiser(run.network).loss(x0, t, noise, clean)).mean(1)

    before = losses()
    for _ in range(20):
        told = run.accumulate(run.network, x0, t, torch.ones(4), noise, clean)
        run.optimizer.step()
        run.optimizer.zero_grad()
    after = losses()
    assert after[0] < 0.9 * before[0] and after[1] < 0.5 * before[1]
    assert told.mean() < before.sum()


def test_a_step_learns_from_the_pixels_drawn_for_it(tmp_path: Path) -> None:
    run, seen = trainer(tmp_path), []
    run.network.register_forward_pre_hook(lambda _network, inputs: seen.append(inputs))
    *_, clean = run._draws(images(2))
    run.train_step(run.network, images(2))
    [(x, times)] = seen
    assert clean is not None and times.shape == (2, 1, 16, 16) and times[clean > 0].eq(0).all()
    given = (clean > 0).expand_as(x)
    assert torch.equal(x[given], images(2)[given]) and given.any() and not given.all()
