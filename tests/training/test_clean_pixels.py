"""Masks of clean pixels, and training with a time per pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from guided_diffusion.training import clean_pixels
from guided_diffusion.training.clean_pixels import draw_clean_masks
from guided_diffusion.training.prior_trainer import PriorTrainer
from tests.helpers.training import random_images, tiny_trainer


@pytest.mark.parametrize("size", [8, 12, 16, 64])
def test_clean_masks_leave_noise_everywhere_and_a_third_all_noisy(size: int) -> None:
    drawn = draw_clean_masks(600, size, np.random.default_rng(0))
    assert drawn.shape == (600, 1, size, size) and drawn.dtype == bool
    shares = drawn.mean((1, 2, 3))
    assert shares.max() < 1
    assert (shares == 0).mean() == pytest.approx(1 / 3, abs=0.06)
    assert 0.3 < shares[shares > 0].mean() < 0.9


def test_clean_masks_depend_on_generator_alone() -> None:
    first, second, other = (draw_clean_masks(8, 16, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_squares_have_all_sides_and_shares() -> None:
    rng, sides, shares = np.random.default_rng(0), set(), []
    for _ in range(300):
        mask = clean_pixels._draw_squares(16, rng)
        # The largest side of which the mask is made, by undoing: every tile of that side is uniform.
        tiles = {side: mask.reshape(16 // side, side, 16 // side, side) for side in (1, 2, 4, 8)}
        whole = [side for side, tile in tiles.items() if (tile.all((1, 3)) | ~tile.any((1, 3))).all()]
        sides.add(max(whole))
        shares.append(mask.mean())
        assert not mask.all()
    assert sides == {1, 2, 4, 8}
    assert np.histogram(shares, 4, (0, 1))[0].min() > 30


def test_kinds_of_masks_have_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[str] = []
    hole = np.zeros((16, 16), dtype=bool)
    monkeypatch.setattr(clean_pixels, "make_mask", lambda kind, size, rng: (kinds.append(kind), hole)[1])
    monkeypatch.setattr(clean_pixels, "_draw_squares", lambda size, rng: (kinds.append("squares"), hole)[1])
    draw_clean_masks(3000, 16, np.random.default_rng(0))
    shares = {kind: kinds.count(kind) / 3000 for kind in ("thick", "thin", "squares")}
    assert shares == pytest.approx({"thick": 0.3, "thin": 0.3, "squares": 1 / 15}, abs=0.03)


# the trainer


def trainer(folder: Path, **keys: object) -> PriorTrainer:
    return tiny_trainer(folder, per_pixel_time=True, **keys)


def test_trainer_lowers_loss_with_clean_pixels(tmp_path: Path) -> None:
    """On one batch with one mask, step after step, both terms of the loss fall, microbatches included."""
    run = trainer(tmp_path, lr=3e-3, batch_size=4, microbatch=3, diffusion_steps=50)
    x0, t = random_images(4), torch.tensor([5, 20, 35, 49])
    noise = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    clean = torch.zeros(4, 1, 16, 16)
    clean[1:, :, 4:] = 1

    def losses() -> Tensor:
        with torch.no_grad():
            return torch.stack(run.denoiser(run.network).loss(x0, t, noise, clean)).mean(1)

    before = losses()
    for _ in range(20):
        minimised = run.accumulate(run.network, x0, t, torch.ones(4), noise, clean)
        run.optimizer.step()
        run.optimizer.zero_grad()
    after = losses()
    assert after[0] < 0.9 * before[0] and after[1] < 0.5 * before[1]
    assert minimised.mean() < before.sum()


def test_train_step_shows_network_the_drawn_clean_pixels(tmp_path: Path) -> None:
    run, seen = trainer(tmp_path), []
    run.network.register_forward_pre_hook(lambda _network, inputs: seen.append(inputs))
    *_, clean = run.draw(random_images(2))
    run.train_step(run.network, random_images(2))
    [(x, times)] = seen
    assert clean is not None and times.shape == (2, 1, 16, 16) and times[clean > 0].eq(0).all()
    shown = (clean > 0).expand_as(x)
    assert torch.equal(x[shown], random_images(2)[shown]) and shown.any() and not shown.all()
