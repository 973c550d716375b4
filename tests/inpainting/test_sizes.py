"""Images of any size through whole runs of a tiny model of 16 pixels: many windows, one result."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.engine import Engine, load_config
from guided_diffusion.errors import ImageError
from guided_diffusion.output.results import Progress, Result
from guided_diffusion.runners import display
from tests.helpers.memory import Memory
from tests.helpers.project import NFE, Cli, Project, image
from tests.helpers.results import inpainted, inpainted_image

SHAPE = (50, 70)
HOLES = {"a": (2, 6, 3, 9), "b": (5, 9, 60, 66), "c": (40, 44, 30, 37)}  # in the order of their windows
LARGE = (24, 38, 20, 34)


def nfe(result: Result) -> int:
    return result.outputs["inpainted"].nfe


def keep_but(*names: str) -> np.ndarray:
    keep = np.ones(SHAPE, dtype=bool)
    for name in names:
        top, bottom, left, right = HOLES.get(name, LARGE)
        keep[top:bottom, left:right] = False
    return keep


def run(conf: Path, images: dict[str, np.ndarray], keeps: dict[str, np.ndarray], *overrides: str) -> list:
    engine = Engine(load_config(conf, ["precision=fp32", *overrides]))
    return list(engine.inpaint_arrays(list(images), list(images.values()), [keeps[name] for name in images]))


def by_name(events: list) -> dict[str, Result]:
    finished = [event for event in events if isinstance(event, Result)]
    assert len({result.name for result in finished}) == len(finished)
    return {result.name: result for result in finished}


def inpaint_one(conf: Path, keep: np.ndarray, *overrides: str, seed: int = 0) -> Result:
    shown = image(seed, *keep.shape)
    [result] = by_name(run(conf, {"p": shown}, {"p": keep}, *overrides)).values()
    if inpainted(result) is not None:
        assert np.array_equal(inpainted(result)[keep], shown[keep])
        assert (inpainted(result)[~keep] != shown[~keep]).mean() > 0.5
    return result


@pytest.fixture
def conf(project: Project) -> Path:
    return project(count=0, data={"batch_size": 2})


def test_windows_of_an_image_give_one_result(conf: Path) -> None:
    result = inpaint_one(conf, keep_but("a", "b", "c"))
    assert nfe(result) == 3 * NFE and result.outputs["inpainted"].seconds > 0
    assert nfe(inpaint_one(conf, keep_but("a", "b", "c"), "windows=whole")) == NFE


def test_hole_is_independent_of_batch_and_other_images(conf: Path) -> None:
    keeps = {"p": keep_but("a", "b", "c"), "q": keep_but("c"), "r": keep_but("b", "large")}
    shown = {name: image(i, *SHAPE) for i, name in enumerate(keeps)}
    together = by_name(run(conf, shown, keeps, "data.batch_size=3"))
    for name in keeps:
        alone = by_name(run(conf, {name: shown[name]}, keeps, "data.batch_size=1"))[name]
        assert np.abs(inpainted_image(alone).astype(int) - inpainted_image(together[name])).max() <= 1
        assert nfe(alone) == nfe(together[name])


def test_window_noise_follows_the_position_except_for_the_first(conf: Path) -> None:
    all_three, first, two = (inpaint_one(conf, keep_but(*names)) for names in ("abc", "a", "ac"))
    for name, other in (("a", first), ("a", two), ("c", two)):
        hole = ~keep_but(name)
        assert np.abs(inpainted_image(all_three)[hole].astype(int) - inpainted_image(other)[hole]).max() <= 1
    [alone] = {inpainted_image(inpaint_one(conf, keep_but("c")))[~keep_but("c")].tobytes()}
    assert alone != inpainted_image(two)[~keep_but("c")].tobytes()


def test_equal_holes_get_different_noise(conf: Path) -> None:
    keep = np.ones((16, 80), dtype=bool)
    keep[6:10, 6:10] = keep[6:10, 70:74] = False
    events = run(conf, {"p": np.full((16, 80, 3), 90, np.uint8)}, {"p": keep})
    first, second = (inpainted_image(by_name(events)["p"])[6:10, left : left + 4] for left in (6, 70))
    assert not np.array_equal(first, second)


def test_progress_counts_windows(conf: Path) -> None:
    shown, keeps = image(0, *SHAPE), {"p": keep_but("a", "b", "c")}
    steps = [e for e in run(conf, {"p": shown}, keeps) if isinstance(e, Progress)]
    assert Counter((p.names, p.step, p.steps, p.window, p.windows) for p in steps) == Counter(
        (("p",), step, NFE, window, 3) for window in (2, 3) for step in range(1, NFE + 1)
    )


def test_image_with_a_failed_window_fails_once(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeps = {"p": keep_but("a", "b", "c"), "q": keep_but("a")}
    shown = {name: image(0, *SHAPE) for name in keeps}
    Memory(0, torch.OutOfMemoryError("CUDA out of memory")).install(monkeypatch)
    finished = by_name(run(conf, shown, keeps))
    for result in finished.values():
        assert inpainted(result) is None and "out of memory on cpu: the model sees 16x16" in result.error
    assert sorted(finished) == ["p", "q"]


def test_paste_known_false_writes_whole_windows(conf: Path) -> None:
    keep = keep_but("a", "b")
    shown = image(0, *SHAPE)
    whole = inpainted_image(by_name(run(conf, {"p": shown}, {"p": keep}, "paste_known=false"))["p"])
    pasted = inpainted_image(by_name(run(conf, {"p": shown}, {"p": keep}))["p"])
    changed = (whole != shown).any(axis=2)
    assert np.array_equal(whole[~keep], pasted[~keep])
    assert changed[:16, :16].any() and changed[:16, 54:].any() and not changed[20:].any()


def test_overlap_inpaints_a_large_hole_after_a_coarse_pass(conf: Path) -> None:
    keep = keep_but("a", "large")
    scaled, result = inpaint_one(conf, keep), inpaint_one(conf, keep, "windows=overlap")
    assert (nfe(scaled), nfe(result)) == (2 * NFE, 3 * NFE)
    assert np.array_equal(inpainted_image(scaled)[~keep_but("a")], inpainted_image(result)[~keep_but("a")])
    assert not np.array_equal(inpainted_image(scaled), inpainted_image(result))
    more = inpaint_one(conf, keep, "windows=overlap", "data.batch_size=5")
    assert np.abs(inpainted_image(more).astype(int) - inpainted_image(result)).max() <= 1


def test_overlap_halves_windows_when_memory_runs_out(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = inpaint_one(conf, keep_but("large"), "windows=overlap")
    memory = Memory(3, torch.OutOfMemoryError("CUDA out of memory"))
    memory.install(monkeypatch)
    halved = inpaint_one(conf, keep_but("large"), "windows=overlap", "data.batch_size=8")
    assert np.abs(inpainted_image(halved).astype(int) - inpainted_image(plain)).max() <= 1
    assert [count for count in memory.seen if count > 3] == [8, 4] and max(memory.seen[-20:]) == 2
    memory.room = 0
    assert "out of memory" in inpaint_one(conf, keep_but("large"), "windows=overlap").error


def test_overlap_batches_windows_of_the_first_image(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(99, torch.OutOfMemoryError("CUDA out of memory"))
    memory.install(monkeypatch)
    auto = inpaint_one(conf, keep_but("large"), "windows=overlap", "data.batch_size=auto")
    calls = list(memory.seen)
    windows = sum(calls[NFE:]) // NFE  # after the coarse pass
    assert windows > 8 and len(calls) == NFE * (1 + -(-windows // 8))
    alone = inpaint_one(conf, keep_but("large"), "windows=overlap", "data.batch_size=1")
    assert np.array_equal(inpainted_image(auto), inpainted_image(alone))


@pytest.mark.parametrize("method", ["ddpm", "ddim", "ddnm", "td_paint"])
def test_masked_methods_inpaint_through_many_windows(conf: Path, method: str) -> None:
    overrides = ["per_pixel_time=true"] if method == "td_paint" else []
    result = inpaint_one(conf, keep_but("b", "large"), f"method={method}", "windows=overlap", *overrides)
    assert nfe(result) == 3 * (6 if method != "ddnm" else NFE)


def test_overlap_without_a_mask_takes_the_whole_image(project: Project) -> None:
    conf = project(count=0, method="intermediate", t_start=0, data={"gt_path": "gts"})
    shown = image(0, 40, 50)
    Image.fromarray(shown).save("gts/p.png")
    [near], [scaled] = (
        list(Engine(load_config(conf, ["timestep_respacing=''", f"windows={windows}"]))())
        for windows in ("overlap", "holes")
    )
    assert inpainted_image(near).shape == shown.shape == inpainted_image(scaled).shape
    assert np.abs(inpainted_image(near).astype(int) - shown).mean() < 8


def test_fingerprint_depends_on_windows(project: Project) -> None:
    conf = project(count=1)
    prints = {
        Engine(load_config(conf, [f"windows={w}"])).task.fingerprint("inpainted")
        for w in ("holes", "overlap", "whole")
    }
    assert len(prints) == 3


@pytest.mark.parametrize("shape", [(10, 12), (1, 1), (16, 9), (7, 40)])
@pytest.mark.parametrize("windows", ["holes", "overlap", "whole"])
def test_images_smaller_than_the_model(conf: Path, shape: tuple[int, int], windows: str) -> None:
    keep = np.ones(shape, dtype=bool)
    keep[: (shape[0] + 1) // 2, : (shape[1] + 1) // 2] = False
    assert inpainted_image(inpaint_one(conf, keep, f"windows={windows}")).shape == (*shape, 3)


def test_overlap_inpaints_a_strip_too_long_for_the_model(conf: Path) -> None:
    shown, keep = image(0, 2, 270), np.zeros((2, 270), dtype=bool)
    with pytest.raises(ImageError, match="270x2 image is so long and thin .* set windows: overlap"):
        run(conf, {"p": shown}, {"p": keep})
    assert inpainted_image(inpaint_one(conf, keep, "windows=overlap")).shape == (2, 270, 3)


def test_command_reports_the_window(project: Project, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "QUIET_SECONDS", -1.0)
    conf = project(count=0)
    Image.fromarray(image(0, *SHAPE)).save("gts/p.png")
    Image.fromarray(keep_but("a", "b", "c")).save("masks/p.png")
    outcome = cli("--conf_path", conf)
    assert outcome.code == 0 and f"p: window 3 of 3, step 2 of {NFE}" in outcome.out
    run_json = json.loads(Path("log/run/run.json").read_text())
    assert run_json["images"]["p"]["nfe"] == 3 * NFE
    assert "finished before" in cli("--conf_path", conf).out
