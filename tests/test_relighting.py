"""Method relight: what the engine promises of both outputs, whatever lifts the shadow (here a stand-in)."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion import relighting
from guided_diffusion.engine import Engine, load_config
from guided_diffusion.images import PictureError, read_deep, write_picture
from guided_diffusion.results import Progress, Result
from guided_diffusion.shadow.relight import Relit
from tests.conftest import EVALUATIONS, Outcome, keep_mask, picture

Cli = Callable[..., Outcome]
Project = Callable[..., Path]
FREE, INPAINTED = Path("log/run/shadow_free"), Path("log/run/inpainted")
# keep_mask() with its hole one pixel larger: 0.012 of 16 pixels is less than one.
KEEP = keep_mask()
for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):
    KEEP = KEEP & np.roll(keep_mask(), (down, right), (0, 1))


class Negative:
    """In place of `relight`: the negative of the whole picture, mixed with noise; remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(
        self, picture: np.ndarray, shadow: np.ndarray, settings: Any, denoise: Any, process: Any, draws: Any
    ) -> Relit:
        self.calls.append((picture, shadow, settings, denoise, process, draws))
        noise = torch.randint(0, 50, shadow.shape, generator=draws).numpy()[..., None]
        free = np.iinfo(picture.dtype).max - picture // 2 - noise.astype(picture.dtype)
        evaluations = 0
        if denoise is not None:
            evaluations = len([denoise(torch.zeros(1, 3, 16, 16), t) for t in range(3)])
        matte = shadow.astype(np.float32) * np.float32(0.4)
        return Relit(free, matte, np.full(picture.shape, 0.2, np.float32), "", evaluations)


@pytest.fixture
def negative(monkeypatch: pytest.MonkeyPatch) -> Negative:
    stand_in = Negative()
    monkeypatch.setattr(relighting, "relight", stand_in)
    return stand_in


@pytest.fixture
def shaded(project: Project, negative: Negative) -> Callable[..., Path]:
    """As `project`, with method relight and the stand-in."""
    return lambda *counts, **settings: project(*counts, **{"method": "relight", **settings})


def results(conf: Path, *overrides: str) -> dict[str, Result]:
    return {result.name: result for result in Engine(load_config(conf, overrides))()}


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def told() -> dict[str, Any]:
    return json.loads(Path("log/run/run.json").read_text())


def find(monkeypatch: pytest.MonkeyPatch, shadow: np.ndarray) -> None:
    """Every picture's shadow shall be found to be this one."""
    module = types.SimpleNamespace(find_shadow=lambda picture: shadow)
    monkeypatch.setitem(sys.modules, "guided_diffusion.shadow.detect", module)


def test_beyond_the_shadow_s_reach_both_outputs_are_the_input(shaded: Project, cli: Cli) -> None:
    outcome = cli("--conf_path", shaded())
    assert (outcome.code, outcome.err) == (0, "")
    for i in range(3):
        for folder in (FREE, INPAINTED):
            made = pixels(folder / f"p{i}.png")
            assert np.array_equal(made[KEEP], picture(i)[KEEP])
            assert (made[~KEEP] != picture(i)[~KEEP]).mean() > 0.8


def test_the_log_folder_holds_all_that_the_issue_names(shaded: Project, cli: Cli) -> None:
    cli("--conf_path", shaded(1))
    names = {
        *("inpainted", "shadow_free", "gt_masked", "gt_keep_mask", "gt", "shadow_matte", "shadow_field"),
        *("overview.png", "run.json", "run.log"),
    }
    assert {path.name for path in Path("log/run").iterdir()} == names
    assert np.array_equal(pixels("log/run/gt_keep_mask/p0.png") == 255, KEEP)
    assert np.array_equal(pixels("log/run/gt_masked/p0.png"), picture(0) * KEEP[..., None])
    matte, field = pixels("log/run/shadow_matte/p0.png"), pixels("log/run/shadow_field/p0.png")
    assert np.array_equal(matte, np.where(keep_mask(), 0, 102).astype(np.uint8))  # 0.4 of 255
    assert field.shape == (16, 16, 3) and (field == 51).all()


def test_folders_can_be_elsewhere(shaded: Project, cli: Cli) -> None:
    paths = {"shadow_frees": "a", "shadow_mattes": "b/c", "shadow_fields": "d", "srs": "e"}
    cli("--conf_path", shaded(1, paths=paths))
    assert all(Path(folder, "p0.png").exists() for folder in paths.values())


def test_the_stand_in_gets_what_the_interface_says(shaded: Project, negative: Negative) -> None:
    conf = shaded(1)
    results(conf)
    [(given, shadow, settings, denoise, process, draws)] = negative.calls
    assert np.array_equal(given, picture(0)) and given.dtype == np.uint8
    assert shadow.dtype == bool and np.array_equal(shadow, ~keep_mask())
    assert settings == load_config(conf).relight and denoise is None
    assert process.num_timesteps == 6 and isinstance(draws, torch.Generator)


def test_draws_follow_seed_and_name_alone(shaded: Project) -> None:
    conf = shaded(4)
    one, four = results(conf), results(conf, "data.batch_size=4")
    alone, other = results(conf, "data.offset=2", "data.max_len=1"), results(conf, "seed=1")

    def free(found: dict[str, Result], name: str) -> np.ndarray:
        lifted = found[name].lifted
        assert lifted is not None and lifted.free is not None
        return lifted.free

    for name in one:
        assert np.array_equal(free(one, name), free(four, name))
    assert np.array_equal(free(alone, "p2"), free(one, "p2"))
    assert not np.array_equal(free(other, "p2"), free(one, "p2"))


@pytest.mark.parametrize("output", ["inpainted", "shadow_free"])
def test_outputs_choose_what_is_made(shaded: Project, cli: Cli, negative: Negative, output: str) -> None:
    conf = shaded(1, outputs=output)
    assert cli("--conf_path", conf).code == 0
    both = {"inpainted", "shadow_free"}
    assert {path.name for path in Path("log/run").iterdir()} & both == {output}
    assert len(negative.calls) == (output == "shadow_free")
    assert told()["evaluations"] == (EVALUATIONS if output == "inpainted" else 0)
    assert set(told()["pictures"]["p0"]) & both == ({output} if output == "shadow_free" else set())


def test_without_prior_and_painting_no_checkpoint_is_needed(shaded: Project, cli: Cli) -> None:
    conf = shaded(1, outputs=["shadow_free"], model_path="absent.pt")
    plan = cli("--conf_path", conf, "--dry_run")
    assert plan.code == 0 and "missing" not in plan.out
    assert "0 network evaluations a picture (0 for shadow_free)" in plan.out
    assert cli("--conf_path", conf).code == 0
    assert "missing: absent.pt" in cli("--conf_path", conf, "--set", "outputs=inpainted", "--dry_run").out
    assert "absent.pt" in cli("--conf_path", conf, "--set", "relight.prior=diffusion").err


def test_a_prior_gets_the_denoiser_and_its_cost_is_told(shaded: Project, negative: Negative) -> None:
    conf = shaded(1, outputs=["shadow_free"], relight={"prior": "diffusion"})
    events = list(Engine(load_config(conf)).stream())
    assert events[0] == Progress(("p0",), 3, 3)
    assert isinstance(events[1], Result) and events[1].lifted is not None
    assert events[1].lifted.evaluations == 3 and negative.calls[0][3] is not None


def test_run_json_tells_of_both_parts(shaded: Project, cli: Cli) -> None:
    cli("--conf_path", shaded(1, relight={"prior": "diffusion"}))
    entry = told()["pictures"]["p0"]
    assert entry["inpainted"]["evaluations"] == EVALUATIONS and entry["shadow_free"]["evaluations"] == 3
    assert entry["evaluations"] == told()["evaluations"] == EVALUATIONS + 3
    seconds = entry["inpainted"]["seconds"] + entry["shadow_free"]["seconds"]
    assert entry["seconds"] == pytest.approx(seconds, abs=0.0011) and entry["inpainted"]["seconds"] > 0
    assert told()["config"]["relight"]["prior"] == "diffusion"
    assert told()["config"]["outputs"] == ["inpainted", "shadow_free"]


def test_the_plan_tells_both_costs(shaded: Project, cli: Cli) -> None:
    out = cli("--conf_path", shaded(), "--dry_run").out
    assert f"({EVALUATIONS} for inpainted + 0 for shadow_free), about" in out


# resuming: each output by its own key


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_second_run_computes_nothing(shaded: Project, cli: Cli, negative: Negative) -> None:
    conf = shaded()
    cli("--conf_path", conf)
    before = told(), stamps(FREE), stamps(INPAINTED), len(negative.calls)
    outcome = cli("--conf_path", conf)
    assert "3 of 3 pictures were finished before" in outcome.out
    assert (told(), stamps(FREE), stamps(INPAINTED), len(negative.calls)) == before


def test_what_is_asked_for_later_is_added(shaded: Project, cli: Cli, negative: Negative) -> None:
    conf = shaded(2)
    cli("--conf_path", conf, "--set", "outputs=shadow_free")
    before = stamps(FREE)
    assert "were finished before" not in cli("--conf_path", conf).out
    assert stamps(FREE) == before and len(negative.calls) == 2 and len(stamps(INPAINTED)) == 2
    entry = told()["pictures"]["p1"]
    assert entry["shadow_free"] == {"note": "finished in an earlier run"}
    assert entry["evaluations"] == EVALUATIONS
    assert "2 of 2 pictures were finished before" in cli("--conf_path", conf).out


def test_keys_of_one_part_do_not_undo_the_other(shaded: Project, cli: Cli, negative: Negative) -> None:
    conf = shaded(1)
    cli("--conf_path", conf)
    lifted, painted = stamps(FREE), stamps(INPAINTED)
    cli("--conf_path", conf, "--set", "schedule_jump_params.jump_n_sample=3")
    assert stamps(FREE) == lifted and stamps(INPAINTED) != painted and len(negative.calls) == 1
    painted = stamps(INPAINTED)
    cli("--conf_path", conf, "--set", "schedule_jump_params.jump_n_sample=3", "relight.prior=diffusion")
    assert stamps(FREE) != lifted and stamps(INPAINTED) == painted


@pytest.mark.parametrize("lost", ["shadow_matte", "shadow_field", "shadow_free"])
def test_a_lost_file_is_made_again(shaded: Project, cli: Cli, negative: Negative, lost: str) -> None:
    conf = shaded(1)
    cli("--conf_path", conf)
    painted = stamps(INPAINTED)
    Path(f"log/run/{lost}/p0.png").unlink()
    cli("--conf_path", conf)
    assert Path(f"log/run/{lost}/p0.png").exists() and len(negative.calls) == 2
    assert stamps(INPAINTED) == painted


# masks


def test_shadow_masks_may_be_bright(shaded: Project, negative: Negative) -> None:
    dark = results(shaded(1))["p0"]
    Image.fromarray(~keep_mask()).save("masks/p0.png")
    bright = results(shaded(0), "data.mask_is=shadow")["p0"]
    assert dark.filled is not None and np.array_equal(bright.filled, dark.filled)
    assert bright.parts["shadow_free"].key == dark.parts["shadow_free"].key
    repaint = results(shaded(0), "data.mask_is=shadow", "method=repaint")["p0"]
    assert np.array_equal(repaint.keep, keep_mask())


def test_a_mask_without_a_shadow_copies_and_says_so(shaded: Project, cli: Cli, negative: Negative) -> None:
    conf = shaded(1)
    Image.fromarray(np.full((16, 16), 255, np.uint8)).save("masks/p0.png")
    outcome = cli("--conf_path", conf)
    assert outcome.code == 0
    assert "p0: the mask marks no shadow: the picture was left as it was\n" in outcome.out
    assert np.array_equal(pixels(FREE / "p0.png"), picture(0))
    assert np.array_equal(pixels(INPAINTED / "p0.png"), picture(0))
    assert not pixels("log/run/shadow_matte/p0.png").any()
    assert (pixels("log/run/shadow_field/p0.png") == 255).all()
    assert told()["evaluations"] == 0 and negative.calls == []
    assert "are kept" in cli("--conf_path", conf).out


def test_auto_finds_the_shadow(shaded: Project, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    by_mask = results(shaded(1))["p0"]
    find(monkeypatch, ~keep_mask())
    conf = shaded(1, data={"gt_path": "gts", "mask_path": "auto"})
    assert "missing" not in cli("--conf_path", conf, "--dry_run").out
    found = results(conf)["p0"]
    assert (
        np.array_equal(found.keep, KEEP)
        and found.parts["shadow_free"].key == by_mask.parts["shadow_free"].key
    )


def test_auto_leaves_a_picture_without_a_shadow(
    shaded: Project, cli: Cli, negative: Negative, monkeypatch: pytest.MonkeyPatch
) -> None:
    find(monkeypatch, np.zeros((16, 16), bool))
    outcome = cli("--conf_path", shaded(1, data={"gt_path": "gts", "mask_path": "auto"}))
    assert "p0: no shadow found: the picture was left as it was\n" in outcome.out
    assert np.array_equal(pixels(FREE / "p0.png"), picture(0))
    assert told()["pictures"]["p0"]["evaluations"] == 0 and negative.calls == []


def test_auto_is_for_relight_alone(shaded: Project, cli: Cli) -> None:
    outcome = cli("--conf_path", shaded(1), "--set", "data.mask_path=auto", "method=repaint")
    assert outcome.code == 2
    assert (
        outcome.err == "error: data.mask_path: auto is for method relight, not repaint; name masks instead\n"
    )


def test_relight_needs_a_mask_or_auto(shaded: Project, cli: Cli) -> None:
    outcome = cli("--conf_path", shaded(1, data={"gt_path": "gts"}))
    assert outcome.code == 2 and "method relight needs data.mask_path" in outcome.err


# depth, failures, pictures in hand


def test_16_bit_pictures_stay_as_deep_as_they_are(shaded: Project, cli: Cli) -> None:
    conf = shaded(0)
    deep = picture(0).astype(np.uint16) * 257 + np.arange(16, dtype=np.uint16)[:, None]
    write_picture("gts/deep.png", deep)
    Image.fromarray(deep[..., 0]).save("gts/grey.tif")
    for name in ("deep", "grey"):
        Image.fromarray(keep_mask()).save(f"masks/{name}.png")
    assert cli("--conf_path", conf).code == 0
    for name, given in {"deep": deep, "grey": np.repeat(deep[..., :1], 3, axis=2)}.items():
        free = read_deep(FREE / f"{name}.png")
        assert free.dtype == np.uint16 and np.array_equal(free[KEEP], given[KEEP])
        assert (free[~KEEP] != given[~KEEP]).mean() > 0.8
        for folder in (INPAINTED, Path("log/run/gt")):
            eight = read_deep(folder / f"{name}.png")
            assert eight.dtype == np.uint8
            assert np.array_equal(eight[KEEP], np.rint(given / 257).astype(np.uint8)[KEEP])
    assert "2 of 2 pictures were finished before" in cli("--conf_path", conf).out


@pytest.mark.parametrize("size", [(40, 24), (9, 61)])
def test_any_size_is_lifted_as_it_is(shaded: Project, negative: Negative, size: tuple[int, int]) -> None:
    conf = shaded(0)
    Image.fromarray(picture(0, *size)).save("gts/p0.png")
    Image.fromarray(keep_mask(*size)).save("masks/p0.png")
    lifted = results(conf)["p0"].lifted
    assert lifted is not None and lifted.free is not None and lifted.free.shape == (*size, 3)
    assert negative.calls[0][0].shape == (*size, 3)


@pytest.fixture
def moody(monkeypatch: pytest.MonkeyPatch, negative: Negative) -> Iterator[list[Exception]]:
    """The stand-in raises the first of these at its second call."""
    moods: list[Exception] = []

    def relight(*args: Any) -> Relit:
        answer = negative(*args)
        if len(negative.calls) == 2:
            raise moods[0]
        return answer

    monkeypatch.setattr(relighting, "relight", relight)
    return moods


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        (PictureError("no light at all"), "no light at all"),
        (
            torch.OutOfMemoryError(),
            "out of memory on cpu with a picture of 16x16; shrink it, or set relight.",
        ),
    ],
)
def test_a_picture_that_cannot_be_lifted_fails_alone(
    shaded: Project, cli: Cli, moody: list[Exception], mood: Exception, reason: str
) -> None:
    moody.append(mood)
    outcome = cli("--conf_path", shaded(), "--set", "data.batch_size=2")
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: p1 failed: {reason}") and outcome.err.count("\n") == 1
    assert sorted(stamps(FREE)) == sorted(stamps(INPAINTED)) == ["p0.png", "p2.png"]
    assert "error" in told()["pictures"]["p1"]


def test_pil_in_pil_out(shaded: Project, negative: Negative, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(load_config(shaded(0, data={}, model_path="absent.pt")))
    mask = Image.fromarray(keep_mask())
    free = np.array(engine.remove_shadow(Image.fromarray(picture(3)), mask))
    assert np.array_equal(free[KEEP], picture(3)[KEEP]) and not np.array_equal(free, picture(3))
    again = np.array(engine.remove_shadow(Image.fromarray(picture(3)), mask, name="other"))
    assert not np.array_equal(again, free)
    find(monkeypatch, ~keep_mask())
    assert np.array_equal(np.array(engine.remove_shadow(Image.fromarray(picture(3)))), free)
    with pytest.raises(PictureError, match="make them equal"):
        engine.remove_shadow(Image.fromarray(picture(3)), Image.new("L", (16, 17)))


def test_keys_of_relight_are_warned_of_elsewhere(shaded: Project) -> None:
    conf = shaded(0, method="repaint", outputs="inpainted", relight={"dilate": 0.5})
    assert Engine(load_config(conf)).warnings == ["keys that only method relight reads: outputs and relight"]
