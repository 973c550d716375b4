"""Images of any size through whole runs of a tiny model of 16 pixels: many windows, one result."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.engine import Engine, load_config
from guided_diffusion.errors import ImageError
from guided_diffusion.output.results import Progress, Result
from tests.conftest import NFE, Outcome, image
from tests.helpers.results import inpainted
from tests.inpainting.test_out_of_memory import Memory

Project = Callable[..., Path]
SHAPE = (50, 70)
HOLES = {"a": (2, 6, 3, 9), "b": (5, 9, 60, 66), "c": (40, 44, 30, 37)}  # in the order of their windows
LARGE = (24, 38, 20, 34)


def keep_but(*names: str) -> np.ndarray:
    keep = np.ones(SHAPE, dtype=bool)
    for name in names:
        top, bottom, left, right = HOLES.get(name, LARGE)
        keep[top:bottom, left:right] = False
    return keep


def run(conf: Path, images: dict[str, np.ndarray], keeps: dict[str, np.ndarray], *overrides: str) -> list:
    engine = Engine(load_config(conf, ["precision=fp32", *overrides]))
    return list(engine.inpaint_arrays(list(images), list(images.values()), [keeps[name] for name in images]))


def results(events: list) -> dict[str, Result]:
    found = [event for event in events if isinstance(event, Result)]
    assert len({result.name for result in found}) == len(found)
    return {result.name: result for result in found}


def one(conf: Path, keep: np.ndarray, *overrides: str, seed: int = 0) -> Result:
    shown = image(seed, *keep.shape)
    [result] = results(run(conf, {"p": shown}, {"p": keep}, *overrides)).values()
    if inpainted(result) is not None:
        assert np.array_equal(inpainted(result)[keep], shown[keep])
        assert (inpainted(result)[~keep] != shown[~keep]).mean() > 0.5
    return result


def filled(result: Result) -> np.ndarray:
    assert inpainted(result) is not None, result.error
    return inpainted(result)


@pytest.fixture
def conf(project: Project) -> Path:
    return project(count=0, data={"batch_size": 2})


def test_the_windows_of_a_picture_make_one_result(conf: Path) -> None:
    result = one(conf, keep_but("a", "b", "c"))
    assert result.nfe == 3 * NFE and result.seconds > 0
    assert one(conf, keep_but("a", "b", "c"), "windows=whole").nfe == NFE


def test_a_hole_is_filled_alike_whatever_its_batch_and_the_pictures_beside_it(conf: Path) -> None:
    keeps = {"p": keep_but("a", "b", "c"), "q": keep_but("c"), "r": keep_but("b", "large")}
    shown = {name: image(i, *SHAPE) for i, name in enumerate(keeps)}
    together = results(run(conf, shown, keeps, "data.batch_size=3"))
    for name in keeps:
        alone = results(run(conf, {name: shown[name]}, keeps, "data.batch_size=1"))[name]
        assert np.abs(filled(alone).astype(int) - filled(together[name])).max() <= 1
        assert alone.nfe == together[name].nfe


def test_the_first_window_draws_as_the_only_one_does_and_the_others_by_their_place(conf: Path) -> None:
    all_three, first, two = (one(conf, keep_but(*names)) for names in ("abc", "a", "ac"))
    for name, other in (("a", first), ("a", two), ("c", two)):
        hole = ~keep_but(name)
        assert np.abs(filled(all_three)[hole].astype(int) - filled(other)[hole]).max() <= 1
    [alone] = {filled(one(conf, keep_but("c")))[~keep_but("c")].tobytes()}
    assert alone != filled(two)[~keep_but("c")].tobytes()


def test_alike_holes_are_not_filled_alike(conf: Path) -> None:
    keep = np.ones((16, 80), dtype=bool)
    keep[6:10, 6:10] = keep[6:10, 70:74] = False
    events = run(conf, {"p": np.full((16, 80, 3), 90, np.uint8)}, {"p": keep})
    one, other = (filled(results(events)["p"])[6:10, left : left + 4] for left in (6, 70))
    assert not np.array_equal(one, other)


def test_progress_tells_of_every_window(conf: Path) -> None:
    shown, keeps = image(0, *SHAPE), {"p": keep_but("a", "b", "c")}
    steps = [e for e in run(conf, {"p": shown}, keeps) if isinstance(e, Progress)]
    assert Counter((p.names, p.step, p.steps, p.window, p.windows) for p in steps) == Counter(
        (("p",), step, NFE, window, 3) for window in (2, 3) for step in range(1, NFE + 1)
    )


def test_a_picture_of_which_one_window_fails_fails_once(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeps = {"p": keep_but("a", "b", "c"), "q": keep_but("a")}
    shown = {name: image(0, *SHAPE) for name in keeps}
    Memory(0, torch.OutOfMemoryError("CUDA out of memory")).install(monkeypatch)
    found = results(run(conf, shown, keeps))
    for result in found.values():
        assert inpainted(result) is None and "out of memory on cpu: the model sees 16x16" in result.error
    assert sorted(found) == ["p", "q"]


def test_known_pixels_are_the_models_own_where_that_is_asked_for(conf: Path) -> None:
    keep = keep_but("a", "b")
    shown = image(0, *SHAPE)
    whole = filled(results(run(conf, {"p": shown}, {"p": keep}, "paste_known=false"))["p"])
    kept = filled(results(run(conf, {"p": shown}, {"p": keep}))["p"])
    changed = (whole != shown).any(axis=2)
    assert np.array_equal(whole[~keep], kept[~keep])
    assert changed[:16, :16].any() and changed[:16, 54:].any() and not changed[20:].any()


def test_a_large_hole_is_filled_natively_after_a_sketch(conf: Path) -> None:
    keep = keep_but("a", "large")
    scaled, result = one(conf, keep), one(conf, keep, "windows=overlap")
    assert (scaled.nfe, result.nfe) == (2 * NFE, 3 * NFE)
    assert np.array_equal(filled(scaled)[~keep_but("a")], filled(result)[~keep_but("a")])
    assert not np.array_equal(filled(scaled), filled(result))
    more = one(conf, keep, "windows=overlap", "data.batch_size=5")
    assert np.abs(filled(more).astype(int) - filled(result)).max() <= 1


def test_windows_that_memory_does_not_hold_are_halved(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = one(conf, keep_but("large"), "windows=overlap")
    memory = Memory(3, torch.OutOfMemoryError("CUDA out of memory"))
    memory.install(monkeypatch)
    halved = one(conf, keep_but("large"), "windows=overlap", "data.batch_size=8")
    assert np.abs(filled(halved).astype(int) - filled(plain)).max() <= 1
    assert [count for count in memory.seen if count > 3] == [8, 4] and max(memory.seen[-20:]) == 2
    memory.room = 0
    assert "out of memory" in one(conf, keep_but("large"), "windows=overlap").error


def test_the_first_picture_s_windows_go_through_as_many_at_once_as_pay(
    conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(99, torch.OutOfMemoryError("CUDA out of memory"))
    memory.install(monkeypatch)
    auto = one(conf, keep_but("large"), "windows=overlap", "data.batch_size=auto")
    calls = list(memory.seen)
    windows = sum(calls[NFE:]) // NFE  # behind the sketch
    assert windows > 8 and len(calls) == NFE * (1 + -(-windows // 8))
    alone = one(conf, keep_but("large"), "windows=overlap", "data.batch_size=1")
    assert np.array_equal(filled(auto), filled(alone))


@pytest.mark.parametrize("method", ["ddpm", "ddim", "ddnm", "td_paint"])
def test_every_masked_method_fills_through_many_windows(conf: Path, method: str) -> None:
    overrides = ["per_pixel_time=true"] if method == "td_paint" else []
    result = one(conf, keep_but("b", "large"), f"method={method}", "windows=overlap", *overrides)
    assert result.nfe == 3 * (6 if method != "ddnm" else NFE)


def test_without_a_mask_overlap_takes_the_whole_picture_as_it_is(project: Project) -> None:
    conf = project(count=0, method="intermediate", t_start=0, data={"gt_path": "gts"})
    shown = image(0, 40, 50)
    Image.fromarray(shown).save("gts/p.png")
    [near], [scaled] = (
        list(Engine(load_config(conf, ["timestep_respacing=''", f"windows={windows}"]))())
        for windows in ("overlap", "holes")
    )
    assert filled(near).shape == shown.shape == filled(scaled).shape
    assert np.abs(filled(near).astype(int) - shown).mean() < 8


def test_windows_decide_the_fingerprint_of_what_is_painted(project: Project) -> None:
    conf = project(count=1)
    prints = {Engine(load_config(conf, [f"windows={w}"])).fingerprint for w in ("holes", "overlap", "whole")}
    assert len(prints) == 3


@pytest.mark.parametrize("shape", [(10, 12), (1, 1), (16, 9), (7, 40)])
@pytest.mark.parametrize("windows", ["holes", "overlap", "whole"])
def test_pictures_smaller_than_the_model(conf: Path, shape: tuple[int, int], windows: str) -> None:
    keep = np.ones(shape, dtype=bool)
    keep[: (shape[0] + 1) // 2, : (shape[1] + 1) // 2] = False
    assert filled(one(conf, keep, f"windows={windows}")).shape == (*shape, 3)


def test_a_strip_too_long_for_the_model_is_filled_by_overlap(conf: Path) -> None:
    shown, keep = image(0, 2, 270), np.zeros((2, 270), dtype=bool)
    with pytest.raises(ImageError, match="270x2 image is so long and thin .* set windows: overlap"):
        run(conf, {"p": shown}, {"p": keep})
    assert filled(one(conf, keep, "windows=overlap")).shape == (2, 270, 3)


def test_the_command_says_which_window_it_is_at(
    project: Project, cli: Callable[..., Outcome], command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "QUIET_SECONDS", -1.0)
    conf = project(count=0)
    Image.fromarray(image(0, *SHAPE)).save("gts/p.png")
    Image.fromarray(keep_but("a", "b", "c")).save("masks/p.png")
    outcome = cli("--conf_path", conf)
    assert outcome.code == 0 and f"p: window 3 of 3, step 2 of {NFE}" in outcome.out
    told = json.loads(Path("log/run/run.json").read_text())
    assert told["images"]["p"]["evaluations"] == 3 * NFE
    assert "finished before" in cli("--conf_path", conf).out
