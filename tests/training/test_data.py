"""Training data of a prior: order, batches, unreadable files, windows, codec."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.codec import PixelCodec
from guided_diffusion.errors import DatasetError, ImageError
from guided_diffusion.images.formats import write_image
from guided_diffusion.runtime import distributed
from guided_diffusion.training.data import EndlessOrder, SkipUnreadable, open_batches, open_source
from guided_diffusion.training.datasets import ImageFolder
from guided_diffusion.training.prior_trainer import PriorTrainer
from guided_diffusion.training.scene_windows import SceneWindows
from tests.helpers.project import image
from tests.helpers.toy_codec import ToyCodec
from tests.helpers.training import CODEC, CPU, encoded_scene, tiny_config


def indices(size: int | None, start: int, count: int, rank: int = 0, ranks: int = 1) -> list[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "rank", lambda: rank)
        patch.setattr(distributed, "world_size", lambda: ranks)
        return list(islice(EndlessOrder(size, start, seed=5), count))


def folder(root: Path, good: int, broken: tuple[int, ...] = ()) -> Path:
    for i in range(good):
        write_image(root / f"{i:02d}.png", image(i))
    for i in broken:
        (root / f"{i:02d}.png").write_bytes(b"not an image")
    return root


@given(st.integers(1, 30), st.integers(0, 100))
def test_endless_order_shuffles_each_epoch_anew(size: int, start: int) -> None:
    drawn = indices(size, 0, 3 * size)
    epochs = [drawn[e * size : (e + 1) * size] for e in range(3)]
    for e, epoch in enumerate(epochs):
        assert sorted(epoch) == list(range(e * size, (e + 1) * size))
    if size > 8:
        assert [i % size for i in epochs[0]] != [i % size for i in epochs[1]] != sorted(range(size))
    assert indices(size, start, 50) == indices(size, 0, start + 50)[start:]


@given(st.integers(1, 4), st.one_of(st.none(), st.integers(1, 20)), st.integers(0, 50))
def test_endless_order_deals_indices_to_ranks(ranks: int, size: int | None, start: int) -> None:
    single = indices(size, start, 12 * ranks)
    shared = [indices(size, start, 12, rank, ranks) for rank in range(ranks)]
    assert [shared[i % ranks][i // ranks] for i in range(12 * ranks)] == single


def test_endless_order_counts_through_endless_source() -> None:
    assert indices(None, 7, 3) == [7, 8, 9]
    assert indices(None, 4, 3, rank=1, ranks=2) == [5, 7, 9]


def test_skip_unreadable_takes_next_image_and_names_fault(tmp_path: Path) -> None:
    source = ImageFolder(folder(tmp_path / "p", 5, broken=(1, 2)), 16, False, False, 0, CODEC)
    data = SkipUnreadable(source)
    assert data[0][1] == ()
    x, faults = data[1]
    assert torch.equal(x, source[3])
    assert [Path(fault.split(": ")[0]).name for fault in faults] == ["01.png", "02.png"]
    assert all("\n" not in fault for fault in faults)
    assert torch.equal(data[7][0], source[8])  # a later epoch too


def test_skip_unreadable_raises_if_no_image_is_readable(tmp_path: Path) -> None:
    folder(tmp_path / "q", 2, broken=(0, 1))
    with pytest.raises(ImageError, match="nor could the 99 before it; mend data_dir"):
        SkipUnreadable(ImageFolder(tmp_path / "q", 16, False, False, 0, CODEC))[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_open_batches_gives_images_and_faults(tmp_path: Path, workers: int) -> None:
    folder(tmp_path / "p", 4, broken=(2,))
    config = tiny_config(
        tmp_path, data_dir=str(tmp_path / "p"), batch_size=4, workers=workers, random_flip=True
    )
    source = open_source(config, CODEC)
    assert isinstance(source, ImageFolder)
    batches = open_batches(source, config, 0)
    for epoch in range(2):
        x, faults = next(batches)
        assert x.shape == (4, 3, 16, 16) and x.dtype == torch.float32 and x.abs().max() <= 1
        assert len(faults) == 1 and "02.png" in faults[0]
        wanted = [SkipUnreadable(source)[i][0] for i in indices_of(4, epoch)]
        assert torch.equal(x, torch.stack(wanted))


def indices_of(size: int, epoch: int) -> list[int]:
    """Independent of EndlessOrder's bookkeeping."""
    return [epoch * size + int(p) for p in np.random.default_rng([0, epoch]).permutation(size)]


def test_open_batches_resumes_at_start(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, seed=3)
    source = open_source(config, CODEC)
    assert isinstance(source, SceneWindows)
    whole = [x for x, _ in islice(open_batches(source, config, 0), 3)]
    later = [x for x, _ in islice(open_batches(source, config, 4), 1)]
    assert torch.equal(whole[2], later[0])
    assert torch.equal(whole[1][0], source[2])


def test_scene_windows_at_scale_1_are_whole_scenes() -> None:
    windows = SceneWindows(16, 3, (1,), CODEC)
    assert all(torch.equal(windows[i], encoded_scene(i, 16, 3)) for i in range(6))


def position(window: torch.Tensor, frame: torch.Tensor) -> tuple[int, int] | None:
    """Top and left of the window in the frame, by exhaustive search; None if it is nowhere."""
    side = window.shape[-1]
    views = frame.unfold(1, side, 1).unfold(2, side, 1)
    hits = (views == window[:, None, None]).all(dim=(0, 3, 4)).nonzero().tolist()
    return (hits[0][0], hits[0][1]) if hits else None


def test_scene_windows_lie_anywhere_at_each_scale() -> None:
    windows = SceneWindows(16, 3, (1, 2, 4), CODEC)
    positions: dict[int, list[tuple[int, int]]] = {1: [], 2: [], 4: []}
    for i in range(40):
        window = SceneWindows(16, 3, (1, 2, 4), CODEC)[i]
        assert window.shape == (3, 16, 16) and torch.equal(window, windows[i])
        frames = {scale: encoded_scene(i, 16 * scale, 3) for scale in positions}
        [(scale, where)] = [(k, at) for k, frame in frames.items() if (at := position(window, frame))]
        positions[scale].append(where)
    assert all(len(corners) >= 6 for corners in positions.values())
    assert set(positions[1]) == {(0, 0)}
    for scale in (2, 4):
        tops, lefts = zip(*positions[scale], strict=True)
        reach = 16 * (scale - 1)
        assert all(max(side) > reach / 2 > min(side) and max(side) <= reach for side in (tops, lefts))


def test_open_batches_uses_scales_and_resumes(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, seed=3, scales="1,2", workers=1)
    source, windows = open_source(config, CODEC), SceneWindows(16, 3, (1, 2), CODEC)
    whole = [x for x, _ in islice(open_batches(source, config, 0), 3)]
    later = next(open_batches(source, config, 4))[0]
    assert torch.equal(whole[2], later)
    assert torch.equal(torch.cat(whole), torch.stack([windows[i] for i in range(6)]))


class InvertedCodec(PixelCodec):
    """PixelCodec with the sign of its space reversed."""

    def encode(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        return -super().encode(images)

    def decode(self, x: torch.Tensor) -> np.ndarray:
        return super().decode(-x)


@pytest.mark.parametrize("data_dir", ["scenes", "folder"])
def test_open_source_encodes_with_given_codec(tmp_path: Path, data_dir: str) -> None:
    if data_dir == "folder":
        data_dir = str(folder(tmp_path / "p", 3))
    config = tiny_config(tmp_path, data_dir=data_dir)
    pixels, inverted = open_source(config, CODEC), open_source(config, InvertedCodec())
    assert all(torch.equal(inverted[i], -pixels[i]) for i in range(3))


def test_prior_grid_decodes_with_given_codec(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    plain, inverted = (PriorTrainer(config, CPU, codec).grid(rows=1) for codec in (CODEC, InvertedCodec()))
    cell = (slice(9, 9 + 128), slice(9, 9 + 128))
    assert np.abs(plain[cell].astype(int) + inverted[cell] - 255).max() <= 1


@pytest.mark.parametrize("data_dir", ["scenes", "folder"])
def test_prior_trains_on_images_of_a_codec_with_other_channels_and_size(
    tmp_path: Path, data_dir: str
) -> None:
    """`image_size` is the side in model space, as for the Engine: the images have twice as many pixels."""
    if data_dir == "folder":
        data_dir = str(folder(tmp_path / "p", 2))
    config = tiny_config(tmp_path, data_dir=data_dir, per_pixel_time=True)
    codec = ToyCodec()
    run = PriorTrainer(config, CPU, codec)
    batch, faults = next(open_batches(run.open_source(config, codec), config, 0))
    assert batch.shape == (2, 12, 16, 16) and not faults
    if data_dir == "scenes":
        pixels = encoded_scene(0, 32, config.seed)
        assert torch.equal(batch[0], torch.nn.functional.pixel_unshuffle(pixels, 2))
    before = torch.cat([p.detach().flatten() for p in run.network.parameters()])
    run.train_step(run.network, batch)
    after = torch.cat([p.detach().flatten() for p in run.network.parameters()])
    assert not torch.equal(before, after) and run.totals.isfinite().all()
    images, times = run.example_inputs()
    assert run.network(images.zero_(), times).shape == (2, 24, 16, 16) and run.step_flops() > 0
    sheet = run.grid(rows=1)
    assert sheet.shape == (128 + 18, 128 + 18, 3) and sheet.dtype == np.uint8


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_open_source_names_wrong_folder_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "images"
    if kind == "file":
        path.write_bytes(b"")
    elif kind == "empty":
        path.mkdir()
    with pytest.raises(DatasetError) as caught:
        open_source(tiny_config(tmp_path, data_dir=str(path)), CODEC)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
