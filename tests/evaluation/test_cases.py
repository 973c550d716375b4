"""Evaluation cases: reproducible, new to training, and fair to scenes of few photographs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.errors import DatasetError, ImageError
from guided_diffusion.evaluation.cases import WINDOW_SCALES, photo_cases, procedural_cases
from guided_diffusion.scenes.render import render_free, scene_rng


def test_procedural_cases_are_reproducible_and_new_to_training() -> None:
    cases, more = procedural_cases(2, 16, "thick", 1000), procedural_cases(4, 16, "thick", 1000)
    for case, same in zip(cases, more[:2], strict=True):
        assert np.array_equal(case.ground_truth, same.ground_truth) and np.array_equal(case.keep, same.keep)
        assert 0 < case.keep.mean() < 1
    trained = [render_free(scene_rng(0, i), 16) for i in range(4)]
    assert not any(
        np.array_equal(case.ground_truth, trained_image) for case in more for trained_image in trained
    )
    assert len({case.ground_truth.tobytes() for case in more}) == len({case.scene for case in more}) == 4


def test_procedural_cases_keep_images_for_another_mask() -> None:
    thick, half = (procedural_cases(2, 16, kind, 1000) for kind in ("thick", "half"))
    assert [p.ground_truth.tobytes() for p in thick] == [p.ground_truth.tobytes() for p in half]
    assert all(p.keep[:, :8].all() and not p.keep[:, 8:].any() for p in half)


def photographs(folder: Path, *names: str) -> Path:
    """Write images whose blue gives the file, and whose red and green give the position: 4 levels a pixel."""
    rows, columns = np.mgrid[:40, :60]
    for i, name in enumerate(names):
        image = np.stack([4 * columns, 4 * rows, np.full_like(rows, 10 * i)], -1).astype(np.uint8)
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def test_photo_cases_alternate_scenes_and_photographs(tmp_path: Path) -> None:
    root = photographs(tmp_path / "free", "100-1", "100-2", "100-3", "7-1")
    cases = photo_cases(str(root), 6, 16, "half", 1000)
    assert Counter(p.scene for p in cases) == {"100": 3, "7": 3}
    assert [int(p.ground_truth[0, 0, 2]) // 10 for p in cases] == [0, 3, 1, 3, 2, 3]
    assert len({p.name for p in cases}) == len({p.ground_truth.tobytes() for p in cases}) == 6
    again = photo_cases(str(root), 8, 16, "thick", 1000)
    assert [p.ground_truth.tobytes() for p in again[:6]] == [p.ground_truth.tobytes() for p in cases]


def test_photo_cases_cut_windows_at_the_given_scales(tmp_path: Path) -> None:
    cases = photo_cases(str(photographs(tmp_path / "free", "1-1")), 40, 16, "half", 1000)
    steps = Counter(
        round(float(np.diff(p.ground_truth[8, 2:-2, 0].astype(int)).mean()) * 16 / 4) for p in cases
    )
    assert set(steps) == {round(40 * scale) for scale in WINDOW_SCALES}
    inner = np.stack([p.ground_truth[1:-1, 1:-1, 1] for p in cases])
    assert inner.min() >= 4 and inner.max() <= 4 * 38  # overshoot, or another position, would leave this
    assert len({int(p.ground_truth[8, 8, 0]) for p in cases}) > 10
    small = photo_cases(str(tmp_path / "free"), 12, 32, "half", 1000)  # never enlarged
    assert all(np.diff(p.ground_truth[8, :, 0].astype(int)).max() >= 4 for p in small)


def test_photo_cases_name_unusable_photographs(tmp_path: Path) -> None:
    root = photographs(tmp_path / "free", "1-1")
    with pytest.raises(ImageError, match="1-1.png: 60x40 is smaller than the model's 64"):
        photo_cases(str(root), 1, 64, "half", 1000)
    with pytest.raises(DatasetError, match="--images"):
        photo_cases(str(tmp_path / "gone"), 1, 16, "half", 1000)
