"""The scene classifier: what it is told, its loss, its features, its training run and its weights."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from guided_diffusion.checkpoints import load
from guided_diffusion.errors import CheckpointError, ConfigError
from guided_diffusion.evaluation import feature_network
from guided_diffusion.evaluation.feature_network import CELL, SIDE, SceneClassifier, features
from guided_diffusion.evaluation.kid import scene_kid
from guided_diffusion.scenes.layouts import KINDS, NO_KIND, Named, Surface, plain
from guided_diffusion.scenes.render import render_free, render_labelled, scene_rng
from guided_diffusion.scenes.textures import Noise, Points
from guided_diffusion.training.classification import (
    classification_loss,
    draw_training_batch,
    measure_shares,
    predict_kind,
)
from guided_diffusion.training.config import TrainConfig, load_train
from guided_diffusion.training.datasets import LabelledStream
from tests.helpers.training import SUPERVISED, write_yaml

CPU = torch.device("cpu")
TINY = {**SUPERVISED, "task": "classify", "image_size": 16}


def conf(folder: Path, **keys: object) -> Path:
    return write_yaml(folder, TINY, **keys)


def config(folder: Path, **keys: object) -> TrainConfig:
    return load_train(conf(folder, **keys))


def batch(count: int, size: int = 16) -> Tensor:
    stream = LabelledStream(size, seed=5)
    return torch.stack([stream[i] for i in range(count)])


# what it is told


def test_labels_leave_the_pictures_as_they_are() -> None:
    for index in range(6):
        image, kinds = render_labelled(scene_rng(7, index), (24, 32))
        assert np.array_equal(image, render_free(scene_rng(7, index), (24, 32)))
        assert kinds.dtype == np.uint8 and kinds.shape == (24, 32)
        assert set(np.unique(kinds)) <= {*range(len(KINDS)), NO_KIND}


def flat(kind: int) -> Named:
    return Named(
        kind, plain(np.full(3, 0.2, np.float32), Noise.draw(np.random.default_rng(0), "rough", 99), 0)
    )


def test_the_largest_share_of_a_footprint_names_it() -> None:
    points = Points(np.zeros(4, np.float32), np.zeros(4, np.float32), np.ones(4, np.float32))
    upper = np.array([0, 0.4, 0.6, 0.1], np.float32)
    middle = np.array([0, 0.9, 0.9, 0.3], np.float32)
    layers = ((lambda _: middle, flat(1)), (lambda _: upper, flat(2).material))
    # The rest of what lies above: 1 - upper for the middle one, of which it takes its share.
    assert Surface(flat(0), layers, ()).kinds(points).tolist() == [0, 1, NO_KIND, 0]
    assert Surface(flat(3), (), ()).kinds(points).tolist() == [3] * 4


def test_grounds_lie_below_walls() -> None:
    """Where an image shows both, the ground is the lower part."""
    both = 0
    for index in range(40):
        _, kinds = render_labelled(scene_rng(2, index), 16)
        named = kinds != NO_KIND
        wall = np.array([name.startswith("wall") for name in KINDS] + [False] * 240)[kinds] & named
        ground = named & ~wall
        if wall.any() and ground.any():
            both += 1
            assert np.nonzero(wall)[0].mean() < np.nonzero(ground)[0].mean()
    assert 2 <= both <= 12  # 13 % are corners


def test_lessons_keep_picture_and_labels_together() -> None:
    """Bright where wall bricks are, dark elsewhere: so it stays, whatever is mirrored and cropped."""
    planes = torch.zeros(32, 4, 32, 32, dtype=torch.uint8)
    planes[:, 3] = NO_KIND
    bricks = KINDS.index("wall bricks")
    planes[:, :3, :, 16:], planes[:, 3, :, 16:] = 200, bricks
    images, covered = draw_training_batch(planes, Generator().manual_seed(0))
    again, _ = draw_training_batch(planes, Generator().manual_seed(0))
    assert torch.equal(images, again) and images.shape == (32, 3, 32, 32)
    bright = torch.nn.functional.avg_pool2d((images.mean(1, keepdim=True) > 0.3).float(), CELL)[:, 0]
    assert float((bright - covered[:, bricks]).abs().max()) <= 1 / CELL + 1e-6
    assert float(covered.sum()) == float(covered[:, bricks].sum())
    left = bright[:, :, 0].mean(1) > 0.5
    assert 4 < int(left.sum()) < 28  # half are mirrored


def test_shares_count_what_is_of_a_kind() -> None:
    kinds = torch.full((1, 2 * CELL, CELL), NO_KIND, dtype=torch.uint8)
    kinds[0, :CELL, :2], kinds[0, :CELL, 2:5] = 3, 15
    told = measure_shares(kinds)
    assert told.shape == (1, len(KINDS), 2, 1)
    assert told[0, 3].flatten().tolist() == [2 / CELL, 0] and told[0, 15].flatten().tolist() == [3 / CELL, 0]
    assert float(told.sum()) == 5 / CELL


# loss


def test_the_loss_in_closed_form() -> None:
    covered = torch.zeros(3, len(KINDS), 2, 2)
    covered[0, 4], covered[1, 4, 0], covered[1, 5, :, 0] = 1, 0.5, 0.5
    entropy, _ = classification_loss(torch.zeros(3, len(KINDS), 2, 2), covered)
    assert entropy[:2].tolist() == pytest.approx([math.log(len(KINDS))] * 2, rel=1e-5)
    assert float(entropy[2]) == 0  # nothing in it is of any kind
    sure = torch.zeros(1, len(KINDS), 2, 2)
    sure[:, 4] = 40
    entropy, error = classification_loss(sure, covered[:1])
    assert float(entropy) < 1e-6 and float(error) == 0
    entropy, error = classification_loss(sure.roll(1, 1), covered[:1])
    assert float(entropy) == pytest.approx(40, rel=1e-5) and float(error) == 1
    sure[0, 7, :, 1] = 41
    sure[0, 7, 0, 0] = 50
    assert predict_kind(sure).tolist() == [7]


def refused(folder: Path, **keys: object) -> str:
    with pytest.raises(ConfigError) as caught:
        config(folder, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes_are_named(tmp_path: Path) -> None:
    assert "task: classify needs materials; use scenes" in refused(tmp_path, data_dir="images")
    assert "image_size 20: task: classify needs a multiple of 8" in refused(tmp_path, image_size=20)
    for key, value in (("num_channels", 64), ("random_flip", True), ("scales", "1,2")):
        assert f"{key} in " in refused(tmp_path, **{key: value})


# the weights


def test_features_are_those_of_each_picture_alone_at_any_size() -> None:
    images = [render_free(scene_rng(9, index), SIDE) for index in range(3)]
    told = features(images)
    assert told.dtype == np.float64 and told.shape == (3, 96)
    assert np.allclose(features(images[1:2])[0], told[1], atol=1e-5)
    assert np.ptp(told, axis=0).max() > 0.1
    large = [render_free(scene_rng(9, index), 2 * SIDE) for index in range(3)]
    between = np.linalg.norm(features(large)[:, None] - told[None], axis=2)
    assert between.argmin(axis=1).tolist() == [0, 1, 2]


def test_the_shipped_weights_tell_materials() -> None:
    """Of images that no training saw; the bound is the error in docs/training.md, plus four deviations."""
    network, seen = SceneClassifier(), 60
    load(network, feature_network.weights(), SIDE)
    assert sum(p.numel() for p in network.parameters()) < 5e5
    assert Path(feature_network.weights()).stat().st_size < 1.5e6
    data = torch.stack([LabelledStream(SIDE, 2000)[i] for i in range(seen)])
    with torch.no_grad():
        _, error = classification_loss(network(data[:, :3].float() / 255), measure_shares(data[:, 3]))
    assert float(error.mean()) < 0.54


def test_a_flatter_hole_is_further_from_the_truth() -> None:
    truths = [render_free(scene_rng(1500, index), 32) for index in range(16)]
    sets = {
        "truth": truths,
        **{f"{share}": [_flattened(x, share) for x in truths] for share in (0.3, 0.6, 1)},
    }
    told = scene_kid(sets, truths, [f"{index}" for index in range(16)])
    values = [distance.value for distance in told.distances.values()]
    assert values[0] == pytest.approx(0, abs=1e-9)
    assert values == sorted(values) and values[1] > 1e-3
    low, high = told.halves
    assert low < 0 < high


def _flattened(image: np.ndarray, share: float) -> np.ndarray:
    """The middle of an image drawn to its mean."""
    out, middle = image.copy(), (slice(8, 24), slice(8, 24))
    out[middle] = np.rint((1 - share) * image[middle] + share * image[middle].mean((0, 1)))
    return out


def test_the_shipped_recipe_is_the_network_s() -> None:
    recipe = load_train(Path(__file__).resolve().parents[2] / "confs" / "train" / "scene_classifier.yml")
    assert (recipe.task, recipe.data_dir, recipe.seed) == ("classify", "scenes", 0)
    assert recipe.image_size == SIDE


def test_missing_weights_are_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_network, "WEIGHTS", Path("gone") / "scene_classifier.pt")
    with pytest.raises(CheckpointError, match="scene_classifier.pt, which is not there; restore") as caught:
        features([np.zeros((8, 8, 3), np.uint8)])
    assert "\n" not in str(caught.value)
