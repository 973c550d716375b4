"""Engine on a tiny model: bytes, seeds, warnings and failures."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.engine import Engine, load_config
from guided_diffusion.errors import ConfigError, DatasetError, ImageError
from guided_diffusion.images import inputs
from guided_diffusion.output.results import Progress
from guided_diffusion.runtime.seeds import ImageSeed
from tests.helpers.project import NFE, Project, image, keep_mask
from tests.helpers.results import inpainted, inpainted_image, results


def test_known_bytes_are_kept_and_the_hole_is_inpainted(project: Project) -> None:
    for name, result in results(project()).items():
        gt, keep = image(int(name[1:])), keep_mask()
        assert np.array_equal(inpainted_image(result)[keep], gt[keep])
        assert (inpainted_image(result)[~keep] != gt[~keep]).mean() > 0.5
        assert result.outputs["inpainted"].nfe == NFE


def test_noise_depends_on_seed_and_name(project: Project) -> None:
    conf = project(count=2)
    Image.fromarray(image(0)).save("gts/p1.png")  # the same image under two names
    first, other = results(conf), results(conf, "seed=1")
    assert not np.array_equal(inpainted_image(first["p0"]), inpainted_image(first["p1"]))
    assert not np.array_equal(inpainted_image(first["p0"]), inpainted_image(other["p0"]))
    assert np.array_equal(inpainted_image(results(conf)["p0"]), inpainted_image(first["p0"]))


def test_all_known_mask_copies_the_image(project: Project) -> None:
    conf = project(count=1)
    Image.fromarray(np.full((16, 16), 255, np.uint8)).save("masks/p0.png")
    result = results(conf)["p0"]
    assert np.array_equal(inpainted_image(result), image(0))
    assert result.outputs["inpainted"].nfe == 0
    assert "nothing to inpaint" in result.outputs["inpainted"].note


def test_all_unknown_mask_generates_whatever_the_image_is(project: Project) -> None:
    conf = project(count=1)
    Image.fromarray(np.zeros((16, 16), np.uint8)).save("masks/p0.png")
    first = results(conf)["p0"]
    Image.fromarray(image(9)).save("gts/p0.png")
    assert np.array_equal(inpainted_image(first), inpainted_image(results(conf)["p0"]))
    assert "generated" in first.outputs["inpainted"].note


def test_result_is_independent_of_pixels_in_the_hole(project: Project) -> None:
    conf = project(count=1)
    before = inpainted_image(results(conf)["p0"])
    changed = image(0)
    changed[~keep_mask()] = 7
    Image.fromarray(changed).save("gts/p0.png")
    assert np.array_equal(inpainted_image(results(conf)["p0"]), before)


@pytest.mark.parametrize("size", [(16, 16), (40, 24), (24, 61), (9, 11)])
def test_result_keeps_size_and_known_bytes(project: Project, size: tuple[int, int]) -> None:
    conf = project(count=1)
    Image.fromarray(image(0, *size)).save("gts/p0.png")
    Image.fromarray(keep_mask(*size)).save("masks/p0.png")
    result = results(conf)["p0"]
    assert inpainted_image(result).shape == (*size, 3)
    assert np.array_equal(inpainted_image(result)[keep_mask(*size)], image(0, *size)[keep_mask(*size)])


def test_paste_known_false_saves_the_model_s_pixels(project: Project) -> None:
    result = results(project(count=1), "paste_known=false")["p0"]
    assert not np.array_equal(inpainted_image(result)[keep_mask()], image(0)[keep_mask()])


def test_broken_image_fails_alone(project: Project) -> None:
    conf = project(count=3)
    Path("gts/p1.png").write_bytes(Path("gts/p1.png").read_bytes()[:60])
    Image.fromarray(keep_mask(20, 16)).save("masks/p2.png")
    by_name = results(conf, "data.batch_size=2")
    assert "p1.png" in by_name["p1"].error
    assert "16x16" in by_name["p2"].error and "16x20" in by_name["p2"].error
    assert inpainted(by_name["p0"]) is not None


def test_rotated_jpeg_and_other_kinds_of_images(project: Project) -> None:
    conf = project(count=0, paste_known=False)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(image(0, 16, 24)).save("gts/turned.jpg", exif=exif)
    Image.fromarray(image(1)[..., 0].astype(np.uint16) * 257).save("gts/deep.png")
    Image.fromarray(image(1)).convert("L").save("gts/grey.tiff")
    Image.fromarray(image(1)).quantize(16).save("gts/palette.png")
    Image.fromarray(image(1)).convert("RGBA").save("gts/alpha.webp", lossless=True)
    for path in Path("gts").iterdir():
        size = (24, 16) if path.stem == "turned" else (16, 16)
        Image.fromarray(keep_mask(*size)).save(f"masks/{path.stem}.png")
    by_name = results(conf)
    shapes = {name: inpainted_image(result).shape[:2] for name, result in by_name.items()}
    assert shapes == {"turned": (24, 16)} | dict.fromkeys(("deep", "grey", "palette", "alpha"), (16, 16))
    deep = by_name["deep"].gt
    assert deep is not None and np.array_equal(deep, np.repeat(image(1)[..., :1], 3, axis=2))


def test_hole_too_long_for_memory_fails_its_image(project: Project) -> None:
    conf = project(count=1)
    Image.fromarray(image(0, 2, 600)).save("gts/thin.png")
    Image.fromarray(np.zeros((2, 600), bool)).save("masks/thin.png")
    by_name = results(conf)
    assert "600x2 image is so long and thin" in by_name["thin"].error
    assert inpainted(by_name["p0"]) is not None


def test_progress_counts_every_evaluation(project: Project) -> None:
    events = list(Engine(load_config(project(count=2), ["data.batch_size=1"])).stream())
    steps = [event for event in events if isinstance(event, Progress)]
    assert [s.step for s in steps] == list(range(1, NFE + 1)) * 2
    assert {s.steps for s in steps} == {NFE}


@pytest.mark.parametrize("method", ["ddpm", "ddim"])
def test_generate_needs_no_image(project: Project, method: str) -> None:
    conf = project(count=0, method=method, data={}, generate=2)
    by_name = results(conf)
    assert sorted(by_name) == ["000000", "000001"]
    assert inpainted_image(by_name["000000"]).shape == (16, 16, 3)
    assert not np.array_equal(inpainted_image(by_name["000000"]), inpainted_image(by_name["000001"]))


@pytest.mark.parametrize("method", ["ddpm", "ddim", "ddnm"])
def test_masked_methods_keep_the_known_bytes(project: Project, method: str) -> None:
    result = results(project(count=1), f"method={method}")["p0"]
    assert np.array_equal(inpainted_image(result)[keep_mask()], image(0)[keep_mask()])


def test_intermediate_needs_no_mask_and_stays_near_its_image(project: Project) -> None:
    conf = project(count=1, method="intermediate", t_start=0, data={"gt_path": "gts"})
    near = inpainted_image(results(conf, "timestep_respacing=''")["p0"]).astype(int)
    assert np.abs(near - image(0)).mean() < 8


def test_key_depends_on_weights_and_not_on_paths(project: Project, tiny_weights: Path) -> None:
    conf = project(count=1)
    state = torch.load(tiny_weights, weights_only=True)
    shutil.copy(tiny_weights, "same.pt")
    torch.save({key: value * 1.01 for key, value in state.items()}, "other.pt")
    keys = [
        results(conf, *overrides)["p0"].outputs["inpainted"].key
        for overrides in ([], ["model_path=same.pt", "name=elsewhere"], ["model_path=other.pt"])
    ]
    assert keys[0] == keys[1] != keys[2]


def test_inpaint_returns_pil(project: Project) -> None:
    engine = Engine(load_config(project(count=0, data={})))
    out = engine.inpaint(Image.fromarray(image(3)), Image.fromarray(keep_mask()))
    assert out.size == (16, 16)
    assert np.array_equal(np.array(out)[keep_mask()], image(3)[keep_mask()])


def test_inpaint_without_a_hole_loads_no_model(project: Project) -> None:
    engine = Engine(load_config(project(count=0, data={})))
    out = engine.inpaint(Image.fromarray(image(3)), Image.new("L", (16, 16), 255))
    assert np.array_equal(np.array(out), image(3))
    assert "network" not in vars(engine.models)  # cached there once it is loaded


def test_inpaint_without_a_mask_names_the_method(project: Project) -> None:
    with pytest.raises(ImageError, match="method repaint needs a mask"):
        Engine(load_config(project(count=0, data={}))).inpaint(Image.fromarray(image(3)))


def test_generate_reads_offset_and_max_len(project: Project) -> None:
    conf = project(count=0, method="ddpm", data={}, generate=4)
    chosen = results(conf, "data.offset=1", "data.max_len=2")
    assert sorted(chosen) == ["000001", "000002"]
    assert np.array_equal(inpainted_image(chosen["000002"]), inpainted_image(results(conf)["000002"]))
    with pytest.raises(DatasetError, match="offset 4 leaves none of 4"):
        results(conf, "data.offset=4")


def test_generate_beside_images_gives_a_warning(project: Project) -> None:
    conf = project(method="ddpm")
    warned, silent = (Engine(load_config(conf, more)).warnings for more in (["generate=2"], []))
    assert [w for w in warned if w not in silent] == [
        "generate is not read: it is for ddim and ddpm, without a data.gt_path"
    ]


def test_hidden_known_pixels_give_a_warning(project: Project) -> None:
    conf = project()
    warned, silent = (
        Engine(load_config(conf, [f"inpa_inj_sched_prev={x}"])).warnings for x in ("false", "true")
    )
    assert silent == [] and "hides the known pixels" in warned[0] and len(warned) == 1


def test_short_schedule_gives_a_warning_with_the_signal_level(project: Project) -> None:
    engine = Engine(load_config(project(), ["schedule_jump_params.t_T=3"]))
    [warning] = [w for w in engine.warnings if "t_T" in w]
    signal = engine.process.alpha_bar(2) ** 0.5
    assert f"{signal:.1%}" in warning and "timestep_respacing: '3'" in warning


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule_jump_params.t_T=7", "t_T 7 is beyond the 6 steps"),
        ("schedule_jump_params.jump_length=6", "jump_length 6 leaves no room"),
        ("schedule_jump_params.jump_length=two", "jump_length"),
        ("method=repant", "repaint"),
        ("eta=high", "eta"),
        ("eta=-1", "eta: -1 is not a number of at least 0 and at most 1"),
        ("inpa_inj_time_shift=-2", "inpa_inj_time_shift: -2 is not an integer of at least 0"),
        ("device=cuda:77", "cuda:77"),
    ],
)
def test_wrong_settings_are_named_before_loading(project: Project, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Engine(load_config(project(model_path="absent.pt"), [override]))


def test_unreachable_files_count_as_missing(project: Project) -> None:
    paths = {"gt_path": "foo://a/gts", "mask_path": "masks"}
    engine = Engine(load_config(project(model_path="foo://a/b.pt", data=paths)))
    assert engine.missing_files() == ["foo://a/gts", "foo://a/b.pt"]


def test_missing_masks_are_named(project: Project) -> None:
    conf = project()
    Path("masks/p1.png").unlink()
    with pytest.raises(DatasetError, match="p1"):
        Engine(load_config(conf)).pairs()


def test_repaint_without_a_mask_names_the_key(project: Project) -> None:
    with pytest.raises(ConfigError, match="mask_path"):
        Engine(load_config(project(data={"gt_path": "gts"}))).pairs()


def test_labels_are_drawn_per_image_or_given(project: Project) -> None:
    engine = Engine(load_config(project(count=0), ["class_cond=true"]))
    images = [ImageSeed(0, name) for name in "abc"]
    together = engine.models.labels(images)
    assert torch.equal(engine.models.labels(images[1:2]), together[1:2])
    assert len(set(together.tolist())) > 1
    given = Engine(load_config(project(count=0), ["class_cond=true", "cond_y=7"]))
    assert given.models.labels(images[:2]).tolist() == [7, 7]


def test_seeds_equal_runs_of_each_seed_alone(project: Project) -> None:
    conf = project(count=2)
    many = {
        result.name: inpainted_image(result) for result in Engine(load_config(conf, ["seed=3", "seeds=2"]))()
    }
    assert sorted(many) == ["p0_seed3", "p0_seed4", "p1_seed3", "p1_seed4"]
    for seed in (3, 4):
        alone = {
            result.name: inpainted_image(result) for result in Engine(load_config(conf, [f"seed={seed}"]))()
        }
        for name, image_alone in alone.items():
            assert np.array_equal(many[f"{name}_seed{seed}"], image_alone)
    assert not np.array_equal(many["p0_seed3"], many["p0_seed4"])


def test_seeds_keep_their_ground_truths(project: Project) -> None:
    conf = project(count=1, data={"gt_path": "gts", "mask_path": "masks", "shadow_free_path": "gts"})
    config = load_config(conf, ["seeds=2"])
    assert inputs.find_ground_truths(config) == {"p0_seed0": "gts/p0.png", "p0_seed1": "gts/p0.png"}


@pytest.mark.parametrize(
    ("wanted", "warns"), [("fp16", True), ("tf32", True), ("fp32", False), ("auto", False)]
)
def test_precision_that_the_device_lacks_gives_a_warning(project: Project, wanted: str, warns: bool) -> None:
    warnings = Engine(load_config(project(), [f"precision={wanted}", "device=cpu"])).warnings
    assert warnings == ([f"precision {wanted} is for GPUs; on cpu it is fp32"] if warns else [])
