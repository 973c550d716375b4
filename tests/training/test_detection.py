"""Training data, loss and configuration of the shadow detector."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from guided_diffusion.errors import ConfigError
from guided_diffusion.scenes.render import render, scene_rng
from guided_diffusion.shadow.detector import Detector
from guided_diffusion.training.config import load_train
from guided_diffusion.training.datasets import TripletStream
from guided_diffusion.training.detection import detection_loss, draw_training_batch
from tests.helpers.training import DETECT, shadow_triplets, tiny_config


def generator(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


# training data


def test_triplet_stream_gives_scenes() -> None:
    scene, planes = render(scene_rng(5, 2), 32), TripletStream(32, seed=5)[2].numpy()
    assert planes.dtype == np.uint8 and planes.shape == (7, 32, 32)
    assert np.array_equal(planes[:3].transpose(1, 2, 0), scene.shadow)
    assert np.array_equal(planes[3:6].transpose(1, 2, 0), scene.free)
    assert np.abs(planes[6] / 255 - scene.matte).max() <= 0.5 / 255 + 1e-6


def test_draw_training_batch_depends_on_generator_alone() -> None:
    data = shadow_triplets(6)
    first, same, other = (draw_training_batch(data, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], same[0]) and torch.equal(first[1], same[1])
    assert not torch.equal(first[0], other[0])
    images, shadows = first
    assert images.shape == (6, 3, 32, 32) and shadows.shape == (6, 1, 32, 32)
    assert float(images.min()) >= 0 and float(images.max()) <= 1
    assert set(shadows.unique().tolist()) <= {0.0, 1.0}


def test_draw_training_batch_removes_half_of_the_shadows() -> None:
    data = torch.zeros(400, 7, 8, 8, dtype=torch.uint8)
    data[:, :6], data[:, 6] = 128, 255
    _, shadows = draw_training_batch(data, generator(0))
    full = shadows.flatten(1).mean(1)
    assert set(full.tolist()) == {0.0, 1.0}
    assert abs(float(full.mean()) - 0.5) < 4 * math.sqrt(0.25 / 400)


def test_draw_training_batch_transforms_image_and_mask_alike() -> None:
    """White ground with a black shadow: in most images it is dark inside the shadow mask."""
    data = torch.full((64, 7, 32, 32), 200, dtype=torch.uint8)
    data[:, 6] = 0
    data[:, 6, :, :12] = 255
    data[:, :3, :, :12] = 20
    images, shadows = draw_training_batch(data, generator(3))
    partly_shadowed = shadows.flatten(1).any(1) & ~shadows.flatten(1).all(1)
    inside = (images * shadows).sum((1, 2, 3)) / (3 * shadows.sum((1, 2, 3)))
    outside = (images * (1 - shadows)).sum((1, 2, 3)) / (3 * (1 - shadows).sum((1, 2, 3)))
    assert int(partly_shadowed.sum()) > 15
    assert float((inside < 0.7 * outside)[partly_shadowed].float().mean()) > 0.9


# loss


def test_detection_loss_in_closed_form() -> None:
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
        tiny_config(folder, DETECT, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_train_config_names_mistakes(tmp_path: Path) -> None:
    assert "use scenes" in refused(tmp_path, data_dir="images")
    assert "image_size 48" in refused(tmp_path, image_size=48)
    spare = (("num_channels", 64), ("noise_schedule", "cosine"), ("random_flip", True), ("scales", "1,2"))
    for key, value in (*spare, ("loss_weighting", "p2")):
        assert f"{key} in " in refused(tmp_path, **{key: value})
    assert "one of 'prior', 'detect', 'classify'" in refused(tmp_path, task="find", image_size=64)


def test_shipped_detector_fits_four_megabytes() -> None:
    recipe = load_train(Path(__file__).resolve().parents[2] / "confs" / "train" / "shadow_detector.yml")
    assert (recipe.task, recipe.data_dir, recipe.seed) == ("detect", "scenes", 0)
    with torch.device("meta"):
        network = Detector()
        size = recipe.model.image_size
        assert network(torch.empty(2, 3, size, size)).shape == (2, 1, size, size)
    assert 2 * sum(p.numel() for p in network.parameters()) < 4e6
