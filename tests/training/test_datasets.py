"""ImageFolder: crops, flips, workers and errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from guided_diffusion.codec import PixelCodec
from guided_diffusion.errors import DatasetError, ImageError
from guided_diffusion.training.datasets import ImageFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, shape in {"a.png": (40, 60), "b.png": (60, 40), "sub/c.png": (16, 16)}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def test_image_folder_centre_crop_is_exact_at_the_right_size(folder: Path) -> None:
    dataset = ImageFolder(folder, 40, random_crop=False, random_flip=False, seed=0, codec=PixelCodec())
    assert len(dataset) == 3
    wide, tall = (np.asarray(Image.open(folder / name)) for name in ("a.png", "b.png"))
    for index, expected in ((0, wide[:, 10:50]), (1, tall[10:50]), (4, tall[10:50])):
        item = dataset[index]
        assert item.shape == (3, 40, 40) and item.dtype == torch.float32
        want = torch.from_numpy(expected.astype(np.float32)).permute(2, 0, 1) / 255 * 2 - 1
        assert (item - want).abs().max() < 1e-6
    assert dataset[2].shape == (3, 40, 40)  # enlarged


def test_image_folder_flips_are_mirrors_of_the_same_crop(folder: Path) -> None:
    plain = ImageFolder(folder, 16, random_crop=False, random_flip=False, seed=1, codec=PixelCodec())
    flipped = ImageFolder(folder, 16, random_crop=False, random_flip=True, seed=1, codec=PixelCodec())
    mirrored = 0
    for index in range(90):
        item, base = flipped[index], plain[index]
        assert torch.equal(item, base) or torch.equal(item, base.flip(-1))
        mirrored += not torch.equal(item, base)
    assert 25 < mirrored < 65


def test_image_folder_random_crops_depend_on_seed_and_index_alone(folder: Path) -> None:
    dataset = ImageFolder(folder, 16, random_crop=True, random_flip=True, seed=5, codec=PixelCodec())
    again = ImageFolder(folder, 16, random_crop=True, random_flip=True, seed=5, codec=PixelCodec())
    items = [dataset[index] for index in range(9)]
    for index in (7, 0, 3, 3):
        assert torch.equal(again[index], items[index])
    assert len({items[index].numpy().tobytes() for index in (0, 3, 6)}) == 3  # later passes differ
    other = ImageFolder(folder, 16, random_crop=True, random_flip=True, seed=6, codec=PixelCodec())
    assert not torch.equal(other[0], items[0])
    for item in items:
        assert item.shape == (3, 16, 16) and item.min() >= -1 and item.max() <= 1


def test_image_folder_in_workers_gives_the_same_items(folder: Path) -> None:
    dataset = ImageFolder(folder, 16, random_crop=True, random_flip=True, seed=5, codec=PixelCodec())
    batches = list(DataLoader(dataset, batch_size=2, num_workers=2))
    assert torch.equal(torch.cat(batches), torch.stack([dataset[i] for i in range(3)]))


def test_image_folder_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images"):
        ImageFolder(tmp_path, 16, random_crop=False, random_flip=False, seed=0, codec=PixelCodec())
    (tmp_path / "a.png").write_bytes(b"junk")
    with pytest.raises(ImageError, match="a.png"):
        ImageFolder(tmp_path, 16, random_crop=False, random_flip=False, seed=0, codec=PixelCodec())[0]
