"""The scene classifier: its labels, loss, features, training configuration and weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from guided_diffusion.checkpoints import load
from guided_diffusion.errors import CheckpointError, ConfigError
from guided_diffusion.evaluation import feature_network
from guided_diffusion.evaluation.feature_network import CELL, SIDE, SceneClassifier, extract_features
from guided_diffusion.evaluation.kid import scene_kid
from guided_diffusion.scenes.layouts import KINDS, NO_KIND, KindMaterial, Surface, plain_material
from guided_diffusion.scenes.render import render_free, render_labelled, scene_rng
from guided_diffusion.scenes.textures import NoiseField, Points
from guided_diffusion.training.classification import (
    classification_loss,
    draw_training_batch,
    measure_shares,
    predict_kind,
)
from guided_diffusion.training.config import load_train
from guided_diffusion.training.datasets import LabelledStream
from tests.helpers.training import CLASSIFY, tiny_config

# labels


def test_render_labelled_leaves_images_unchanged() -> None:
    for index in range(6):
        image, kinds = render_labelled(scene_rng(7, index), (24, 32))
        assert np.array_equal(image, render_free(scene_rng(7, index), (24, 32)))
        assert kinds.dtype == np.uint8 and kinds.shape == (24, 32)
        assert set(np.unique(kinds)) <= {*range(len(KINDS)), NO_KIND}


def flat(kind: int) -> KindMaterial:
    return KindMaterial(
        kind,
        plain_material(
            np.full(3, 0.2, np.float32), NoiseField.draw(np.random.default_rng(0), "rough", 99), 0
        ),
    )


def test_surface_kinds_names_the_largest_share_of_a_footprint() -> None:
    points = Points(np.zeros(4, np.float32), np.zeros(4, np.float32), np.ones(4, np.float32))
    upper = np.array([0, 0.4, 0.6, 0.1], np.float32)
    middle = np.array([0, 0.9, 0.9, 0.3], np.float32)
    layers = ((lambda _: middle, flat(1)), (lambda _: upper, flat(2).material))
    # The middle layer gets its share of 1 - upper, which the upper layer leaves.
    assert Surface(flat(0), layers, ()).kinds(points).tolist() == [0, 1, NO_KIND, 0]
    assert Surface(flat(3), (), ()).kinds(points).tolist() == [3] * 4


def test_render_labelled_puts_grounds_below_walls() -> None:
    """The ground is the lower part of an image that shows a wall as well."""
    corners = 0
    for index in range(40):
        _, kinds = render_labelled(scene_rng(2, index), 16)
        named = kinds != NO_KIND
        wall = np.array([name.startswith("wall") for name in KINDS] + [False] * 240)[kinds] & named
        ground = named & ~wall
        if wall.any() and ground.any():
            corners += 1
            assert np.nonzero(wall)[0].mean() < np.nonzero(ground)[0].mean()
    assert 2 <= corners <= 12  # 13 % of the scenes


def test_training_batch_keeps_images_and_labels_together() -> None:
    """Bright on wall bricks and dark elsewhere; mirroring and cropping keep it so."""
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


def test_shares_count_pixels_of_each_kind() -> None:
    kinds = torch.full((1, 2 * CELL, CELL), NO_KIND, dtype=torch.uint8)
    kinds[0, :CELL, :2], kinds[0, :CELL, 2:5] = 3, 15
    covered = measure_shares(kinds)
    assert covered.shape == (1, len(KINDS), 2, 1)
    assert covered[0, 3].flatten().tolist() == [2 / CELL, 0]
    assert covered[0, 15].flatten().tolist() == [3 / CELL, 0]
    assert float(covered.sum()) == 5 / CELL


# loss


def test_classification_loss_in_closed_form() -> None:
    covered = torch.zeros(3, len(KINDS), 2, 2)
    covered[0, 4], covered[1, 4, 0], covered[1, 5, :, 0] = 1, 0.5, 0.5
    entropy, _ = classification_loss(torch.zeros(3, len(KINDS), 2, 2), covered)
    assert entropy[:2].tolist() == pytest.approx([math.log(len(KINDS))] * 2, rel=1e-5)
    assert float(entropy[2]) == 0  # an image without any kind
    confident = torch.zeros(1, len(KINDS), 2, 2)
    confident[:, 4] = 40
    entropy, error = classification_loss(confident, covered[:1])
    assert float(entropy) < 1e-6 and float(error) == 0
    entropy, error = classification_loss(confident.roll(1, 1), covered[:1])
    assert float(entropy) == pytest.approx(40, rel=1e-5) and float(error) == 1
    confident[0, 7, :, 1] = 41
    confident[0, 7, 0, 0] = 50
    assert predict_kind(confident).tolist() == [7]


def refusal(folder: Path, **keys: object) -> str:
    with pytest.raises(ConfigError) as caught:
        tiny_config(folder, CLASSIFY, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_train_config_names_wrong_keys_of_classify(tmp_path: Path) -> None:
    assert "task: classify needs materials; use scenes" in refusal(tmp_path, data_dir="images")
    assert "image_size 20: task: classify needs a multiple of 8" in refusal(tmp_path, image_size=20)
    for key, value in (("num_channels", 64), ("random_flip", True), ("scales", "1,2")):
        assert f"{key} in " in refusal(tmp_path, **{key: value})


# weights


def test_extract_features_is_independent_of_batch_and_size() -> None:
    images = [render_free(scene_rng(9, index), SIDE) for index in range(3)]
    features = extract_features(images)
    assert features.dtype == np.float64 and features.shape == (3, 96)
    assert np.allclose(extract_features(images[1:2])[0], features[1], atol=1e-5)
    assert np.ptp(features, axis=0).max() > 0.1
    large = [render_free(scene_rng(9, index), 2 * SIDE) for index in range(3)]
    between = np.linalg.norm(extract_features(large)[:, None] - features[None], axis=2)
    assert between.argmin(axis=1).tolist() == [0, 1, 2]


def test_shipped_weights_classify_materials() -> None:
    """Error on new images; the bound is that of docs/reports/training_runs.md plus four deviations."""
    network, count = SceneClassifier(), 60
    load(network, str(feature_network.CLASSIFIER.path), SIDE)
    assert sum(p.numel() for p in network.parameters()) < 5e5
    assert feature_network.CLASSIFIER.path.stat().st_size < 1.5e6
    data = torch.stack([LabelledStream(SIDE, 2000)[i] for i in range(count)])
    with torch.no_grad():
        _, error = classification_loss(network(data[:, :3].float() / 255), measure_shares(data[:, 3]))
    assert float(error.mean()) < 0.54


def test_scene_kid_grows_with_the_flatness_of_a_hole() -> None:
    ground_truths = [render_free(scene_rng(1500, index), 32) for index in range(16)]
    sets = {
        "ground truth": ground_truths,
        **{f"{share}": [_flatten(x, share) for x in ground_truths] for share in (0.3, 0.6, 1)},
    }
    kid = scene_kid(sets, ground_truths, [f"{index}" for index in range(16)])
    values = [distance.value for distance in kid.distances.values()]
    assert values[0] == pytest.approx(0, abs=1e-9)
    assert values == sorted(values) and values[1] > 1e-3
    low, high = kid.null_range
    assert low < 0 < high


def _flatten(image: np.ndarray, share: float) -> np.ndarray:
    """Blend the middle of an image with its mean."""
    out, middle = image.copy(), (slice(8, 24), slice(8, 24))
    out[middle] = np.rint((1 - share) * image[middle] + share * image[middle].mean((0, 1)))
    return out


def test_shipped_recipe_matches_the_network() -> None:
    recipe = load_train(Path(__file__).resolve().parents[2] / "confs" / "train" / "scene_classifier.yml")
    assert (recipe.task, recipe.data_dir, recipe.seed) == ("classify", "scenes", 0)
    assert recipe.image_size == SIDE


def test_extract_features_explains_missing_weights_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = replace(feature_network.CLASSIFIER, path=Path("gone") / "scene_classifier.pt")
    monkeypatch.setattr(feature_network, "CLASSIFIER", gone)
    with pytest.raises(CheckpointError, match="scene_classifier.pt, which is not there; reinstall") as caught:
        extract_features([np.zeros((8, 8, 3), np.uint8)])
    assert "\n" not in str(caught.value)
