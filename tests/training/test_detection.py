"""What the shadow detector learns from, its loss, and its training run."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from guided_diffusion.errors import ConfigError
from guided_diffusion.scenes.render import render, scene_rng
from guided_diffusion.shadow.detector import Detector
from guided_diffusion.training.config import TrainConfig, load_train
from guided_diffusion.training.datasets import TripletStream
from guided_diffusion.training.detection import detection_loss, examples
from tests.helpers.training import LABELLED, write_yaml

CPU = torch.device("cpu")
TINY = {**LABELLED, "task": "detect", "image_size": 32}


def conf(folder: Path, **keys: object) -> Path:
    return write_yaml(folder, TINY, **keys)


def config(folder: Path, **keys: object) -> TrainConfig:
    return load_train(conf(folder, **keys))


def triplets(count: int, size: int = 32) -> Tensor:
    stream = TripletStream(size, seed=5)
    return torch.stack([stream[i] for i in range(count)])


def generator(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


# what it learns from


def test_a_triplet_is_a_scene() -> None:
    scene, planes = render(scene_rng(5, 2), 32), TripletStream(32, seed=5)[2].numpy()
    assert planes.dtype == np.uint8 and planes.shape == (7, 32, 32)
    assert np.array_equal(planes[:3].transpose(1, 2, 0), scene.shadow)
    assert np.array_equal(planes[3:6].transpose(1, 2, 0), scene.free)
    assert np.abs(planes[6] / 255 - scene.matte).max() <= 0.5 / 255 + 1e-6


def test_examples_hang_on_the_generator_alone() -> None:
    data = triplets(6)
    first, again, other = (examples(data, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    images, shadows = first
    assert images.shape == (6, 3, 32, 32) and shadows.shape == (6, 1, 32, 32)
    assert float(images.min()) >= 0 and float(images.max()) <= 1
    assert set(shadows.unique().tolist()) <= {0.0, 1.0}


def test_half_of_the_pictures_are_without_shadow() -> None:
    data = torch.zeros(400, 7, 8, 8, dtype=torch.uint8)
    data[:, :6], data[:, 6] = 128, 255
    _, shadows = examples(data, generator(0))
    full = shadows.flatten(1).mean(1)
    assert set(full.tolist()) == {0.0, 1.0}
    assert abs(float(full.mean()) - 0.5) < 4 * math.sqrt(0.25 / 400)


def test_picture_and_shadow_are_moved_alike() -> None:
    """White ground, black shadow on a slope: wherever the truth says shadow, it is dark, as a rule."""
    data = torch.full((64, 7, 32, 32), 200, dtype=torch.uint8)
    data[:, 6] = 0
    data[:, 6, :, :12] = 255
    data[:, :3, :, :12] = 20
    images, shadows = examples(data, generator(3))
    some = shadows.flatten(1).any(1) & ~shadows.flatten(1).all(1)
    inside = (images * shadows).sum((1, 2, 3)) / (3 * shadows.sum((1, 2, 3)))
    outside = (images * (1 - shadows)).sum((1, 2, 3)) / (3 * (1 - shadows).sum((1, 2, 3)))
    assert int(some.sum()) > 15
    assert float((inside < 0.7 * outside)[some].float().mean()) > 0.9


# loss


def test_the_loss_in_closed_form() -> None:
    shadow = torch.zeros(3, 1, 20, 20)
    shadow[0, :, :, :10], shadow[2] = 1, 1
    entropy, dice = detection_loss(torch.zeros(3, 1, 20, 20), shadow)
    assert torch.allclose(entropy, torch.full((3,), math.log(2)))
    wanted = [1 - (2 * 100 + 30) / (400 + 30), 1 - 30 / (200 + 30), 1 - (2 * 200 + 30) / (600 + 30)]
    assert dice.tolist() == pytest.approx(wanted, rel=1e-5)
    entropy, dice = detection_loss(40 * (2 * shadow - 1), shadow)
    assert float(entropy.max()) < 1e-6 and float(dice.abs().max()) < 1e-6


def refused(folder: Path, **keys: object) -> str:
    with pytest.raises(ConfigError) as caught:
        config(folder, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes_are_named(tmp_path: Path) -> None:
    assert "use scenes" in refused(tmp_path, data_dir="images")
    assert "image_size 48" in refused(tmp_path, image_size=48)
    spare = (("num_channels", 64), ("noise_schedule", "cosine"), ("random_flip", True), ("scales", "1,2"))
    for key, value in (*spare, ("loss_weighting", "p2")):
        assert f"{key} in " in refused(tmp_path, **{key: value})
    assert "one of 'prior', 'detect', 'classify'" in refused(tmp_path, task="find", image_size=64)


def test_the_shipped_recipe_fits_four_megabytes() -> None:
    recipe = load_train(Path(__file__).resolve().parents[2] / "confs" / "train" / "shadow_detector.yml")
    assert (recipe.task, recipe.data_dir, recipe.seed) == ("detect", "scenes", 0)
    with torch.device("meta"):
        network = Detector()
        size = recipe.model.image_size
        assert network(torch.empty(2, 3, size, size)).shape == (2, 1, size, size)
    assert 2 * sum(p.numel() for p in network.parameters()) < 4e6
