"""The places that the judge fills: reproducible, new to training, and fair to scenes of few photographs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.errors import DatasetError, ImageError
from guided_diffusion.evaluation.cases import REACHES, cut_places, draw_places
from guided_diffusion.scenes.render import render_free, scene_rng


def test_places_are_reproducible_and_none_of_training() -> None:
    places, more = draw_places(2, 16, "thick", 1000), draw_places(4, 16, "thick", 1000)
    for place, same in zip(places, more[:2], strict=True):
        assert np.array_equal(place.truth, same.truth) and np.array_equal(place.keep, same.keep)
        assert 0 < place.keep.mean() < 1
    trained = [render_free(scene_rng(0, i), 16) for i in range(4)]
    assert not any(np.array_equal(place.truth, seen) for place in more for seen in trained)
    assert len({place.truth.tobytes() for place in more}) == len({place.scene for place in more}) == 4


def test_another_mask_is_laid_over_the_same_picture() -> None:
    thick, half = (draw_places(2, 16, kind, 1000) for kind in ("thick", "half"))
    assert [p.truth.tobytes() for p in thick] == [p.truth.tobytes() for p in half]
    assert all(p.keep[:, :8].all() and not p.keep[:, 8:].any() for p in half)


def photographs(folder: Path, *names: str) -> Path:
    """Each with its own blue, and red and green that tell the place: 4 levels a pixel."""
    rows, columns = np.mgrid[:40, :60]
    for i, name in enumerate(names):
        image = np.stack([4 * columns, 4 * rows, np.full_like(rows, 10 * i)], -1).astype(np.uint8)
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def test_scenes_take_turns_and_so_do_their_photographs(tmp_path: Path) -> None:
    root = photographs(tmp_path / "free", "100-1", "100-2", "100-3", "7-1")
    places = cut_places(str(root), 6, 16, "half", 1000)
    assert Counter(p.scene for p in places) == {"100": 3, "7": 3}
    assert [int(p.truth[0, 0, 2]) // 10 for p in places] == [0, 3, 1, 3, 2, 3]
    assert len({p.name for p in places}) == len({p.truth.tobytes() for p in places}) == 6
    again = cut_places(str(root), 8, 16, "thick", 1000)
    assert [p.truth.tobytes() for p in again[:6]] == [p.truth.tobytes() for p in places]


def test_windows_lie_within_the_photograph_at_the_scales_told(tmp_path: Path) -> None:
    places = cut_places(str(photographs(tmp_path / "free", "1-1")), 40, 16, "half", 1000)
    steps = Counter(round(float(np.diff(p.truth[8, 2:-2, 0].astype(int)).mean()) * 16 / 4) for p in places)
    assert set(steps) == {round(40 * reach) for reach in REACHES}
    inner = np.stack([p.truth[1:-1, 1:-1, 1] for p in places])
    assert inner.min() >= 4 and inner.max() <= 4 * 38  # overshoot, or another place, would leave this
    assert len({int(p.truth[8, 8, 0]) for p in places}) > 10
    small = cut_places(str(tmp_path / "free"), 12, 32, "half", 1000)  # never enlarged
    assert all(np.diff(p.truth[8, :, 0].astype(int)).max() >= 4 for p in small)


def test_photographs_that_cannot_be_are_named(tmp_path: Path) -> None:
    root = photographs(tmp_path / "free", "1-1")
    with pytest.raises(ImageError, match="1-1.png: 60x40 is smaller than the model's 64"):
        cut_places(str(root), 1, 64, "half", 1000)
    with pytest.raises(DatasetError, match="--images"):
        cut_places(str(tmp_path / "gone"), 1, 16, "half", 1000)
