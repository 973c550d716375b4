"""Task remove_shadow: masks of either kind or none, 16-bit images, images in memory, and failures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.engine import Engine, load_config
from guided_diffusion.errors import ImageError
from guided_diffusion.images.formats import eight_bits, read_deep, write_image
from guided_diffusion.shadow import detect, remover
from guided_diffusion.shadow.relight import RelitImage
from tests.helpers.log_folder import INPAINTED, SHADOW_FREE, pixels, run_json, stamps
from tests.helpers.negative import RELIT_KEEP as KEEP
from tests.helpers.negative import Negative
from tests.helpers.project import NFE, Cli, Project, image, keep_mask
from tests.helpers.results import inpainted, results, shadow_free, shadow_free_image


def set_found(monkeypatch: pytest.MonkeyPatch, shadow: np.ndarray) -> None:
    """Let this shadow be found in every image."""
    monkeypatch.setattr(remover, "find", lambda image: shadow)


def test_shadow_masks_may_be_bright(shadow_project: Project, negative: Negative) -> None:
    dark = results(shadow_project(1))["p0"]
    Image.fromarray(~keep_mask()).save("masks/p0.png")
    bright = results(shadow_project(0), "data.mask_is=shadow")["p0"]
    assert inpainted(dark) is not None and np.array_equal(inpainted(bright), inpainted(dark))
    assert bright.outputs["shadow_free"].key == dark.outputs["shadow_free"].key
    repaint = results(shadow_project(0), "data.mask_is=shadow", "task=inpaint")["p0"]
    assert np.array_equal(repaint.keep, keep_mask())


def test_mask_without_a_shadow_copies_the_image(
    shadow_project: Project, cli: Cli, negative: Negative
) -> None:
    conf = shadow_project(1)
    Image.fromarray(np.full((16, 16), 255, np.uint8)).save("masks/p0.png")
    outcome = cli("--conf_path", conf)
    assert outcome.code == 0
    assert "p0: the mask marks no shadow: the image was left as it was\n" in outcome.out
    assert np.array_equal(pixels(SHADOW_FREE / "p0.png"), image(0))
    assert np.array_equal(pixels(INPAINTED / "p0.png"), image(0))
    assert not pixels("log/run/shadow_matte/p0.png").any()
    assert (pixels("log/run/shadow_field/p0.png") == 255).all()
    assert run_json()["nfe"] == 0 and negative.calls == []
    assert "are kept" in cli("--conf_path", conf).out


def test_auto_finds_the_shadow(shadow_project: Project, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    by_mask = results(shadow_project(1))["p0"]
    set_found(monkeypatch, ~keep_mask())
    conf = shadow_project(1, data={"gt_path": "gts", "mask_path": "auto"})
    assert "missing" not in cli("--conf_path", conf, "--dry_run").out
    by_auto = results(conf)["p0"]
    assert (
        np.array_equal(by_auto.keep, KEEP)
        and by_auto.outputs["shadow_free"].key == by_mask.outputs["shadow_free"].key
    )


def test_auto_leaves_an_image_without_a_shadow(
    shadow_project: Project, cli: Cli, negative: Negative, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_found(monkeypatch, np.zeros((16, 16), bool))
    outcome = cli("--conf_path", shadow_project(1, data={"gt_path": "gts", "mask_path": "auto"}))
    assert "p0: no shadow found: the image was left as it was\n" in outcome.out
    assert np.array_equal(pixels(SHADOW_FREE / "p0.png"), image(0))
    assert run_json()["images"]["p0"]["nfe"] == 0 and negative.calls == []


def test_auto_is_for_remove_shadow_alone(shadow_project: Project, cli: Cli) -> None:
    outcome = cli("--conf_path", shadow_project(1), "--set", "data.mask_path=auto", "task=inpaint")
    assert outcome.code == 2
    assert (
        outcome.err
        == "error: data.mask_path: auto is for task remove_shadow, not inpaint; name masks instead\n"
    )


def test_remove_shadow_needs_a_mask_or_auto(shadow_project: Project, cli: Cli) -> None:
    outcome = cli("--conf_path", shadow_project(1, data={"gt_path": "gts"}))
    assert outcome.code == 2 and "task remove_shadow needs data.mask_path" in outcome.err


# depth, failures, images in hand


def test_16_bit_images_keep_their_depth(shadow_project: Project, cli: Cli) -> None:
    conf = shadow_project(0)
    deep = image(0).astype(np.uint16) * 257 + np.arange(16, dtype=np.uint16)[:, None]
    write_image("gts/deep.png", deep)
    Image.fromarray(deep[..., 0]).save("gts/grey.tif")
    for name in ("deep", "grey"):
        Image.fromarray(keep_mask()).save(f"masks/{name}.png")
    assert cli("--conf_path", conf).code == 0
    for name, given in {"deep": deep, "grey": np.repeat(deep[..., :1], 3, axis=2)}.items():
        free = read_deep(SHADOW_FREE / f"{name}.png")
        assert free.dtype == np.uint16 and np.array_equal(free[KEEP], given[KEEP])
        assert (free[~KEEP] != given[~KEEP]).mean() > 0.8
        for folder in (INPAINTED, Path("log/run/gt")):
            eight = read_deep(folder / f"{name}.png")
            assert eight.dtype == np.uint8
            assert np.array_equal(eight[KEEP], np.rint(given / 257).astype(np.uint8)[KEEP])
    assert "2 of 2 images were finished before" in cli("--conf_path", conf).out


@pytest.mark.parametrize("size", [(40, 24), (9, 61)])
def test_image_keeps_its_size(shadow_project: Project, negative: Negative, size: tuple[int, int]) -> None:
    conf = shadow_project(0)
    Image.fromarray(image(0, *size)).save("gts/p0.png")
    Image.fromarray(keep_mask(*size)).save("masks/p0.png")
    assert shadow_free_image(results(conf)["p0"]).shape == (*size, 3)
    assert negative.calls[0][0].shape == (*size, 3)


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch, negative: Negative) -> Iterator[list[Exception]]:
    """The stand-in raises the first of these at its second call."""
    errors: list[Exception] = []

    def relight(*args: Any) -> RelitImage:
        answer = negative(*args)
        if len(negative.calls) == 2:
            raise errors[0]
        return answer

    monkeypatch.setattr(remover, "relight", relight)
    return errors


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImageError("no light at all"), "no light at all"),
        (
            torch.OutOfMemoryError(),
            "out of memory on cpu with an image of 16x16; shrink it, or set relight.",
        ),
    ],
)
def test_image_that_cannot_be_relit_fails_alone(
    shadow_project: Project, cli: Cli, failures: list[Exception], error: Exception, reason: str
) -> None:
    failures.append(error)
    outcome = cli("--conf_path", shadow_project(), "--set", "data.batch_size=2")
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: p1 failed: {reason}") and outcome.err.count("\n") == 1
    assert sorted(stamps(SHADOW_FREE)) == sorted(stamps(INPAINTED)) == ["p0.png", "p2.png"]
    assert "error" in run_json()["images"]["p1"]


def test_pil_in_pil_out(shadow_project: Project, negative: Negative, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(load_config(shadow_project(0, data={}, model_path="absent.pt")))
    mask = Image.fromarray(keep_mask())
    free = np.array(engine.remove_shadow(Image.fromarray(image(3)), mask))
    assert np.array_equal(free[KEEP], image(3)[KEEP]) and not np.array_equal(free, image(3))
    again = np.array(engine.remove_shadow(Image.fromarray(image(3)), mask, name="other"))
    assert np.array_equal(again, free)
    set_found(monkeypatch, ~keep_mask())
    assert np.array_equal(np.array(engine.remove_shadow(Image.fromarray(image(3)))), free)
    with pytest.raises(ImageError, match="make them equal"):
        engine.remove_shadow(Image.fromarray(image(3)), Image.new("L", (16, 17)))


def test_inpaint_warns_of_keys_of_remove_shadow(shadow_project: Project) -> None:
    conf = shadow_project(0, task="inpaint", outputs="inpainted", relight={"dilate": 0.5})
    assert Engine(load_config(conf)).warnings == [
        "keys that only task remove_shadow reads: outputs and relight"
    ]


@pytest.mark.parametrize("top", [255, 65535])
def test_inpaint_black_inpaints_black_pixels_alone(
    shadow_project: Project, negative: Negative, top: int
) -> None:
    given = image(0).astype(np.uint16 if top > 255 else np.uint8) * (top // 255)
    black = ~keep_mask() & (np.arange(16) < 8)
    given[black] = 0
    conf = shadow_project(1, relight={"inpaint_black": True})
    write_image("gts/p0.png", given)
    (plain,) = [shadow_free(r) for r in results(conf, "relight.inpaint_black=false").values()]
    (filled,) = [shadow_free(r) for r in results(conf).values()]
    assert plain is not None and filled is not None and plain.image is not None and filled.image is not None
    assert filled.image.dtype == plain.image.dtype == given.dtype
    changed = (filled.image != plain.image).any(axis=2)
    assert changed[black].mean() > 0.8 and not changed[~black].any()
    assert not (filled.image[black] % (top // 255)).any()
    assert (plain.nfe, filled.nfe) == (0, NFE) and plain.note == ""
    assert (
        filled.note == f"{black.sum()} pixels of the shadow were too dark to hold texture and were inpainted"
    )
    assert filled.key != plain.key
    engine = Engine(load_config(conf))
    alone = engine.remove_shadow(Image.fromarray(eight_bits(given)), Image.fromarray(keep_mask()), "p0")
    assert np.array_equal(np.array(alone)[black], eight_bits(filled.image)[black])


def test_inpaint_black_without_black_pixels_costs_nothing(
    shadow_project: Project, negative: Negative
) -> None:
    for name in ("p0", "p1"):
        output = shadow_free(results(shadow_project(2, relight={"inpaint_black": True}))[name])
        assert output is not None and output.nfe == 0 and output.note == ""


def test_inpaint_black_that_fails_keeps_the_relit_image(shadow_project: Project, negative: Negative) -> None:
    """A hole too long and thin for the model to see; the rest of the image is not lost with it."""
    conf = shadow_project(1)
    given = np.full((20, 900, 3), 90, np.uint8)
    given[:, 20:880] = 0
    Image.fromarray(given).save("gts/p0.png")
    Image.fromarray(np.repeat(((np.arange(900) < 20) * np.uint8(255))[None], 20, 0)).save("masks/p0.png")
    plain = results(conf, "outputs=shadow_free")["p0"]
    unfilled = results(conf, "outputs=shadow_free", "relight.inpaint_black=true")["p0"]
    note = unfilled.outputs["shadow_free"].note
    assert note.startswith("black pixels were not inpainted: ") and "\n" not in note
    assert np.array_equal(shadow_free_image(unfilled), shadow_free_image(plain))


def test_inpaint_black_keeps_grey_images_grey(shadow_project: Project, negative: Negative) -> None:
    given = image(0)[..., :1].repeat(3, axis=2)
    given[~keep_mask()] = 0
    conf = shadow_project(1, relight={"inpaint_black": True})
    write_image("gts/p0.png", given)
    result = results(conf)["p0"]
    assert "inpainted" in result.outputs["shadow_free"].note
    assert not np.ptp(shadow_free_image(result), axis=2).any()


def test_second_pass_is_set_by_its_key_and_needs_the_detector(
    shadow_project: Project, cli: Cli, negative: Negative, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = shadow_project(1, outputs="shadow_free")
    twice, once = results(conf)["p0"], results(conf, "relight.second_pass=false")["p0"]
    assert [call[4] for call in negative.calls] == [remover.find, None]
    assert (
        shadow_free(twice) is not None
        and shadow_free(once) is not None
        and shadow_free(twice).key != shadow_free(once).key
    )
    other = Path("other.pt")
    other.write_bytes(b"other weights")
    monkeypatch.setattr(detect, "DETECTOR", replace(detect.DETECTOR, path=other))
    changed = shadow_free(results(conf)["p0"])
    assert changed is not None and changed.key != shadow_free(twice).key
    other.unlink()
    assert "missing: other.pt" in cli("--conf_path", conf, "--dry_run").out
    assert "relight.second_pass: false" in cli("--conf_path", conf).err
    assert cli("--conf_path", conf, "--set", "relight.second_pass=false").code == 0


def test_inpaint_black_needs_the_network_from_the_start(shadow_project: Project, cli: Cli) -> None:
    conf = shadow_project(1, outputs="shadow_free", model_path="absent.pt", relight={"inpaint_black": True})
    assert "missing: absent.pt" in cli("--conf_path", conf, "--dry_run").out
