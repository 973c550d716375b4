from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.errors import DatasetError, ImageError
from guided_diffusion.images.formats import write_image
from guided_diffusion.runtime import distributed
from guided_diffusion.training.data import EndlessOrder, Readable, open_batches, open_source
from guided_diffusion.training.datasets import ImageFolder, SceneStream
from guided_diffusion.training.scene_windows import SceneWindows
from tests.conftest import image
from tests.helpers.training import tiny


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
def test_each_epoch_holds_every_picture_once_in_another_order(size: int, start: int) -> None:
    drawn = indices(size, 0, 3 * size)
    epochs = [drawn[e * size : (e + 1) * size] for e in range(3)]
    for e, epoch in enumerate(epochs):
        assert sorted(epoch) == list(range(e * size, (e + 1) * size))
    if size > 8:
        assert [i % size for i in epochs[0]] != [i % size for i in epochs[1]] != sorted(range(size))
    assert indices(size, start, 50) == indices(size, 0, start + 50)[start:]


@given(st.integers(1, 4), st.one_of(st.none(), st.integers(1, 20)), st.integers(0, 50))
def test_ranks_share_what_one_would_draw(ranks: int, size: int | None, start: int) -> None:
    alone = indices(size, start, 12 * ranks)
    shared = [indices(size, start, 12, rank, ranks) for rank in range(ranks)]
    assert [shared[i % ranks][i // ranks] for i in range(12 * ranks)] == alone


def test_the_endless_source_is_counted_through() -> None:
    assert indices(None, 7, 3) == [7, 8, 9]
    assert indices(None, 4, 3, rank=1, ranks=2) == [5, 7, 9]


def test_a_broken_picture_is_replaced_by_the_next_and_named(tmp_path: Path) -> None:
    source = ImageFolder(folder(tmp_path / "p", 5, broken=(1, 2)), 16, False, False, seed=0)
    data = Readable(source)
    assert data[0][1] == ()
    x, faults = data[1]
    assert torch.equal(x, source[3])
    assert [Path(fault.split(": ")[0]).name for fault in faults] == ["01.png", "02.png"]
    assert all("\n" not in fault for fault in faults)
    assert torch.equal(data[7][0], source[8])  # a later epoch too


def test_a_folder_of_broken_pictures_is_an_error(tmp_path: Path) -> None:
    folder(tmp_path / "q", 2, broken=(0, 1))
    with pytest.raises(ImageError, match="nor could the 99 before it; mend data_dir"):
        Readable(ImageFolder(tmp_path / "q", 16, False, False, seed=0))[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_carry_pictures_and_faults(tmp_path: Path, workers: int) -> None:
    folder(tmp_path / "p", 4, broken=(2,))
    config = tiny(tmp_path, data_dir=str(tmp_path / "p"), batch_size=4, workers=workers, random_flip=True)
    source = open_source(config)
    assert isinstance(source, ImageFolder)
    batches = open_batches(source, config, 0)
    for epoch in range(2):
        x, faults = next(batches)
        assert x.shape == (4, 3, 16, 16) and x.dtype == torch.float32 and x.abs().max() <= 1
        assert len(faults) == 1 and "02.png" in faults[0]
        wanted = [Readable(source)[i][0] for i in indices_of(4, epoch)]
        assert torch.equal(x, torch.stack(wanted))


def indices_of(size: int, epoch: int) -> list[int]:
    """Independent of EndlessOrder's bookkeeping."""
    return [epoch * size + int(p) for p in np.random.default_rng([0, epoch]).permutation(size)]


def test_batches_go_on_where_they_stood(tmp_path: Path) -> None:
    config = tiny(tmp_path, seed=3)
    source = open_source(config)
    assert isinstance(source, SceneWindows)
    whole = [x for x, _ in islice(open_batches(source, config, 0), 3)]
    later = [x for x, _ in islice(open_batches(source, config, 4), 1)]
    assert torch.equal(whole[2], later[0])
    assert torch.equal(whole[1][0], source[2])


def test_at_scale_1_windows_are_the_scenes() -> None:
    windows, scenes = SceneWindows(16, 3, (1,)), SceneStream(16, 3)
    assert all(torch.equal(windows[i], scenes[i]) for i in range(6))


def place(window: torch.Tensor, frame: torch.Tensor) -> tuple[int, int] | None:
    """Where in the frame the window lies, found by looking everywhere."""
    side = window.shape[-1]
    views = frame.unfold(1, side, 1).unfold(2, side, 1)
    hits = (views == window[:, None, None]).all(dim=(0, 3, 4)).nonzero().tolist()
    return (hits[0][0], hits[0][1]) if hits else None


def test_windows_lie_anywhere_in_the_scene_at_one_of_the_scales() -> None:
    windows, drawn = (
        SceneWindows(16, 3, (1, 2, 4)),
        list(SceneWindows(16, 3, (1, 2, 4))[i] for i in range(40)),
    )
    frames = {scale: SceneStream(16 * scale, 3) for scale in (1, 2, 4)}
    found: dict[int, list[tuple[int, int]]] = {scale: [] for scale in frames}
    for i, window in enumerate(drawn):
        assert window.shape == (3, 16, 16) and torch.equal(window, windows[i])
        [(scale, where)] = [(k, at) for k, f in frames.items() if (at := place(window, f[i]))]
        found[scale].append(where)
    assert all(len(places) >= 6 for places in found.values())
    assert set(found[1]) == {(0, 0)}
    for scale in (2, 4):
        tops, lefts = zip(*found[scale], strict=True)
        reach = 16 * (scale - 1)
        assert all(max(side) > reach / 2 > min(side) and max(side) <= reach for side in (tops, lefts))


def test_scales_reach_the_batches_and_go_on_where_they_stood(tmp_path: Path) -> None:
    config = tiny(tmp_path, seed=3, scales="1,2", workers=1)
    source, windows = open_source(config), SceneWindows(16, 3, (1, 2))
    whole = [x for x, _ in islice(open_batches(source, config, 0), 3)]
    later = next(open_batches(source, config, 4))[0]
    assert torch.equal(whole[2], later)
    assert torch.equal(torch.cat(whole), torch.stack([windows[i] for i in range(6)]))


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_a_wrong_folder_is_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "images"
    if kind == "file":
        path.write_bytes(b"")
    elif kind == "empty":
        path.mkdir()
    with pytest.raises(DatasetError) as caught:
        open_source(tiny(tmp_path, data_dir=str(path)))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
