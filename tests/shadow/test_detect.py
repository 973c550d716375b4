"""Shadow detection: the guided filter, the evidence at a shadow's edge, and the whole."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from guided_diffusion.errors import CheckpointError
from guided_diffusion.scenes.render import render, scene_rng
from guided_diffusion.shadow import detect, guided_filter
from guided_diffusion.shadow.detect import find_shadow
from guided_diffusion.shadow.evidence import Evidence, examine_regions, label_regions, select_shadows

# guided filter


def windows(height: int, width: int, radius: int) -> Iterator[tuple[int, int, slice, slice]]:
    for y in range(height):
        for x in range(width):
            yield (
                y,
                x,
                slice(max(0, y - radius), y + radius + 1),
                slice(max(0, x - radius), x + radius + 1),
            )


def by_least_squares(guide: np.ndarray, coarse: np.ndarray, radius: int, smooth: float) -> np.ndarray:
    """The filter's definition: in each window a ridge regression; a pixel averages its windows' answers."""
    height, width = coarse.shape
    fits = np.zeros((height, width, 4))
    for y, x, rows, columns in windows(height, width, radius):
        a, b = guide[:, rows, columns].reshape(3, -1).T, coarse[rows, columns].ravel()
        centred = a - a.mean(0)
        slope = np.linalg.solve(
            centred.T @ centred / len(a) + smooth * np.eye(3), centred.T @ (b - b.mean()) / len(a)
        )
        fits[y, x] = [*slope, b.mean() - slope @ a.mean(0)]
    out = np.zeros((height, width))
    for y, x, rows, columns in windows(height, width, radius):
        mean = fits[rows, columns].reshape(-1, 4).mean(0)
        out[y, x] = mean[:3] @ guide[:, y, x] + mean[3]
    return out


def test_guided_filter_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    guide, coarse = rng.random((3, 9, 12)), rng.random((9, 12))
    tensors = (torch.from_numpy(guide).float(), torch.from_numpy(coarse).float())
    result = guided_filter.apply(guided_filter.coefficients(*tensors, 2, 0.01), tensors[0]).numpy()
    assert np.abs(result - by_least_squares(guide, coarse, 2, 0.01)).max() < 1e-4


def test_guided_filter_gives_a_coarse_map_the_edges_of_a_large_guide() -> None:
    step = torch.zeros(3, 64, 64)
    step[:, :, 37:] = 1
    small, large = step[:, ::2, ::2], step
    coarse = torch.linspace(0, 1, 32).expand(32, 32)
    fine = guided_filter.apply(guided_filter.coefficients(small, coarse, 16, 1e-3), large)
    assert torch.equal(fine > 0.5, large[0] > 0.5)


# evidence


def flooded(mask: np.ndarray) -> np.ndarray:
    label, number = np.zeros(mask.shape, int), 0
    for start in zip(*np.nonzero(mask), strict=True):
        if label[start]:
            continue
        number, waiting = number + 1, [start]
        label[start] = number
        while waiting:
            y, x = waiting.pop()
            for p in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                inside = 0 <= p[0] < mask.shape[0] and 0 <= p[1] < mask.shape[1]
                if inside and mask[p] and not label[p]:
                    label[p] = number
                    waiting.append(p)
    return label


@pytest.mark.parametrize("share", [0.1, 0.35, 0.45, 0.8])
def test_label_regions_agrees_with_a_flood_fill(share: float) -> None:
    mask = np.random.default_rng(0).random((40, 31)) < share
    result, wanted = label_regions(torch.from_numpy(mask)).numpy(), flooded(mask)
    assert np.array_equal(result > 0, mask)
    pairs = {*zip(result[mask].tolist(), wanted[mask].tolist(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == wanted.max()


def test_label_regions_follows_a_spiral() -> None:
    """One long way, which label propagation alone takes a step at a time."""
    mask = torch.zeros(33, 33, dtype=torch.bool)
    for k in range(0, 16, 2):
        mask[k, max(k - 1, 0) : 33 - k] = mask[32 - k, k : 33 - k] = True
        mask[k : 33 - k, 32 - k] = mask[k + 2 : 33 - k, k] = True
    assert len(label_regions(mask).unique()) == 2


GAIN = torch.tensor([1.5, 1.3, 1.1])


def ground(seed: int = 0) -> Tensor:
    """Logarithmic light (3, 128, 128) of a rough grey ground."""
    rough = torch.randn(1, 128, 128, generator=torch.Generator().manual_seed(seed))
    return -1 + 0.1 * rough + torch.zeros(3, 1, 1)


def disc(radius: float = 30) -> Tensor:
    """Distance (128, 128) to a circle about the middle, positive inside."""
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    return radius - torch.hypot(y - 63.5, x - 63.5)


def single_evidence(log: Tensor, mask: Tensor) -> Evidence:
    ((region, evidence),) = examine_regions(log, mask)
    assert torch.equal(region, mask) and evidence is not None
    return evidence


@pytest.mark.parametrize(("width", "shift"), [(0.8, 0.0), (2.5, 0.0), (1.5, 2.0)])
def test_evidence_measures_the_gain_that_removes_the_edge(width: float, shift: float) -> None:
    """With soft edges, and with a mask that is two pixels off."""
    log = ground() - torch.special.ndtr((disc() - shift) / width) * GAIN[:, None, None]
    result = single_evidence(log, disc() > 0)
    assert result.gain == pytest.approx(1.3, abs=0.06) and result.tint == pytest.approx(0.4, abs=0.06)
    assert result.spread < 0.1 and result.edge_left < 0.2 and result.pairs > 1
    assert result.is_shadow and torch.equal(select_shadows(log, disc() > 0), disc() > 0)


def test_select_shadows_examines_regions_apart_and_drops_a_material() -> None:
    shadow, material = disc().roll(-32, 1) - 8, disc().roll(32, 1) - 8
    red = torch.tensor([0.3, 1.0, 1.4])  # rust: it lacks blue
    log = ground() - (shadow > 0) * GAIN[:, None, None] - (material > 0) * red[:, None, None]
    dark = (shadow > 0) | (material > 0)
    assert torch.equal(select_shadows(log, dark), shadow > 0)


def test_evidence_rejects_what_is_no_shadow() -> None:
    inside = disc() > 0
    assert not single_evidence(ground(), inside).is_shadow  # nothing there
    assert not single_evidence(ground() + inside * 1.3, inside).is_shadow  # brighter
    share = torch.tensor([0.1, 1.0, 3.0]).repeat_interleave(20)  # of light lost: little here, much there
    uneven = inside * torch.nn.functional.pad(share, (34, 34), mode="constant", value=1.0)
    assert not single_evidence(ground() - uneven, inside).is_shadow
    outlined = ground() - inside * GAIN[:, None, None] - 3.0 * (disc().abs() < 1.5)  # a frame stays
    assert single_evidence(outlined, inside).edge_left > 0.6
    gap = ground() - inside * GAIN[:, None, None] + 2.5 * (disc() > 15)  # a kerb in a dark gap
    assert single_evidence(gap, inside).glare == pytest.approx(15**2 / (30 - 2.5) ** 2, abs=0.02)


def test_examine_regions_gives_no_evidence_of_too_few_pixels() -> None:
    log = ground()
    assert examine_regions(log, torch.zeros(128, 128, dtype=torch.bool)) == []
    assert examine_regions(log, torch.ones(128, 128, dtype=torch.bool)) == []
    assert examine_regions(log, disc(3) > 0) == []  # 32 pixels
    line = torch.zeros(128, 128, dtype=torch.bool)
    line[60:62, 20:100] = True
    ((region, evidence),) = examine_regions(log, line)
    assert evidence is None and not select_shadows(log, line).any()


# the whole, with the shipped network


def overlap(result: np.ndarray, wanted: np.ndarray) -> float:
    return float((result & wanted).sum() / (result | wanted).sum())


def test_find_shadow_finds_shadows_of_fresh_scenes_and_none_without() -> None:
    scenes = [render(scene_rng(3000, i), (120, 160)) for i in range(5)]
    shares = [overlap(find_shadow(scene.shadow), scene.matte > 0.5) for scene in scenes]
    assert np.median(shares) > 0.6
    clean = [not find_shadow(scene.free).any() for scene in scenes]
    assert sum(clean) >= 4


def test_find_shadow_returns_the_same_full_size_mask_every_time() -> None:
    image = render(scene_rng(3000, 1), (101, 150)).shadow
    before, result = image.copy(), find_shadow(image)
    assert result.dtype == bool and result.shape == (101, 150)
    assert np.array_equal(result, find_shadow(image)) and np.array_equal(image, before)


def test_find_shadow_in_a_region_finds_only_an_overlapping_shadow() -> None:
    """The first was removed perfectly; where a second overlapped it a quarter of the light is left."""
    y, x = np.indices((120, 160))
    region, rest = x > 40, np.hypot(y - 60, x - 100) < 30
    result = []
    for i in range(4):
        free = render(scene_rng(3000, i), (120, 160)).free
        dark = np.where(rest[..., None], free * 0.5, free).round().astype(np.uint8)  # 0.22 of the light
        left = find_shadow(dark, region=region)
        assert not (left & ~region).any() and not find_shadow(free, region=region).any()
        assert not find_shadow(dark, region=~rest).any()
        result.append(overlap(left, rest))
    assert sum(share > 0.9 for share in result) >= 2  # where the evidence is certain, it is whole


def test_evidence_is_certain_within_tighter_bounds() -> None:
    sure = Evidence(gain=0.8, spread=0.3, tint=0.1, pairs=1.0, edge_left=0.1, glare=0.0)
    assert sure.is_shadow and sure.is_certain
    for doubt in ({"gain": 0.25}, {"spread": 0.7}, {"edge_left": 0.5}):
        assert replace(sure, **doubt).is_shadow and not replace(sure, **doubt).is_certain
    assert not replace(sure, glare=0.2).is_certain


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2), (9, 40), (33, 33)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_find_shadow_finds_none_in_flat_images_of_any_size(size: tuple[int, int], level: int) -> None:
    result = find_shadow(np.full((*size, 3), level, dtype=np.uint8))
    assert result.shape == size and not result.any()


def test_find_shadow_accepts_noise_and_grey_images() -> None:
    rng = np.random.default_rng(0)
    assert find_shadow(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)).shape == (64, 80)
    grey = render(scene_rng(3000, 1), (120, 160)).shadow.mean(2, keepdims=True).round().astype(np.uint8)
    assert find_shadow(grey.repeat(3, 2)).shape == (120, 160)


def test_find_shadow_without_weights_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "DETECTOR", replace(detect.DETECTOR, path=tmp_path / "none.pt"))
    with pytest.raises(CheckpointError, match="none.pt.*confs/train/shadow_detector.yml") as caught:
        find_shadow(np.zeros((40, 40, 3), dtype=np.uint8))
    assert "\n" not in str(caught.value)
