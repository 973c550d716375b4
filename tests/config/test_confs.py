"""Every YAML in confs/ loads and builds an engine without weights; RePaint's own YAMLs run unchanged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from guided_diffusion.build import build_classifier, build_network
from guided_diffusion.config.schema import ClassifierConfig
from guided_diffusion.engine import Engine, load_config
from guided_diffusion.images.formats import read_image
from guided_diffusion.images.masks import read_mask
from guided_diffusion.scheduler import count_nfe
from tests.helpers import stored
from tests.helpers.project import MODEL, NFE, ROOT, SCHEDULE, Cli, Project, image, keep_mask
from tests.helpers.results import inpainted

CONFS = ROOT / "confs"
KINDS = ("thin", "thick", "nn2", "ev2li", "genhalf", "ex64")
REPAINT_NAMES = {"face_example"} | {
    f"test_{data}_{kind}" for data in ("c256", "inet256", "p256") for kind in KINDS
}
EXPERIMENTS = {"places2", "repaint", "repaint_istd128", "intermediate", "ilvr"}  # confs/shadow_NAME.yml
COST = {"paper": 2410, "fast": 280, "draft": 45}


def test_shipped_yamls_keep_the_names_that_users_know() -> None:
    assert len(REPAINT_NAMES) == 19
    names = REPAINT_NAMES | {"shadow"} | {f"shadow_{name}" for name in EXPERIMENTS}
    assert names <= {path.stem for path in CONFS.glob("*.yml")}


@pytest.mark.parametrize("path", sorted(CONFS.rglob("*.yml")), ids=lambda path: path.stem)
def test_shipped_yaml_begins_with_a_sentence(path: Path) -> None:
    """`penumbra --list` shows it."""
    first = path.read_text().splitlines()[0]
    assert re.fullmatch(r"# [A-Z].{15,105}\.", first), first


@pytest.mark.parametrize("path", sorted(CONFS.glob("*.yml")), ids=lambda path: path.stem)
def test_shipped_yaml_builds_an_engine_without_a_warning(path: Path) -> None:
    engine = Engine(load_config(path, ["precision=auto"]))  # fp16 is warned of where there is no GPU
    assert engine.warnings == []
    assert engine.config.name == path.stem
    network, classifier = engine.models.build_on_meta()
    assert all(parameter.is_meta for parameter in network.parameters())
    assert (classifier is not None) == ("inet256" in path.stem)
    if path.stem in REPAINT_NAMES:
        millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        assert engine.task.nfe["inpainted"] == COST["paper"]
        assert round(millions, 1) == (553.8 if "inet256" in path.stem else 552.8)


@pytest.mark.parametrize("name", ["places2", "repaint", "repaint_istd128"])
def test_shadow_experiment_costs_what_the_paper_s_does(name: str) -> None:
    engine = Engine(load_config(CONFS / f"shadow_{name}.yml"))
    assert count_nfe(engine.visited_times)[0] == COST["paper"]


def test_istd128_is_shadow_diffusion_s_network_and_starts_at_the_noisiest_step() -> None:
    engine = Engine(load_config(CONFS / "shadow_repaint_istd128.yml"))
    with torch.device("meta"):
        network = build_network(engine.config.model)
    assert stored.fingerprint(network.state_dict()) == stored.facts("state_dicts")["shadow128"]["sha256"]
    linear = np.cumprod(1 - np.linspace(2.5e-4, 0.05, 400))  # their 400 steps
    assert engine.visited_times[0] == 249
    assert engine.process.alpha_bar(249) == pytest.approx(linear[-1], rel=1e-6)
    assert engine.times[-1] == 399 * 2.5  # the time of 1000 at which that noise was trained


def test_intermediate_starts_as_noisy_as_in_shadow_diffusion() -> None:
    engine = Engine(load_config(CONFS / "shadow_intermediate.yml"))
    linear = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    assert engine.process.alpha_bar(engine.visited_times[0]) == pytest.approx(linear[400], abs=0.004)
    assert engine.visited_times == list(range(176, -2, -1))


@pytest.mark.parametrize("name", ["places2", "repaint", "repaint_istd128"])
def test_shadow_experiment_has_the_shadow_as_its_hole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    pairs = Engine(load_config(CONFS / f"shadow_{name}.yml")).pairs()
    assert len(pairs) == 7
    for pair in pairs:
        assert pair.gt is not None and pair.mask is not None
        free, keep = read_image(f"data/samples/shadow_free/{pair.name}.png"), read_mask(pair.mask)
        darker = free.astype(int) - read_image(pair.gt)
        assert darker[keep].mean() < 1.5 < 30 < darker[~keep].mean()


@pytest.mark.parametrize("name", ["repaint", "intermediate", "ilvr"])
def test_shadow_experiment_with_the_shipped_model_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    few = ["timestep_respacing='4'", "data.offset=0", "data.gt_path=data/samples/shadow/scene_road.png"]
    few += {"repaint": ["schedule_jump_params.jump_length=2"], "intermediate": ["t_start=3"]}.get(name, [])
    [result] = Engine(load_config(CONFS / f"shadow_{name}.yml", few))()
    assert inpainted(result) is not None, result.error
    changed = (inpainted(result) != result.gt).any(axis=2)
    if name == "repaint":
        assert result.keep is not None and not changed[result.keep].any()
    else:
        assert result.keep is None
    assert changed.mean() > (0.2 if name == "repaint" else 0.9)


@pytest.mark.parametrize("preset", COST)
@pytest.mark.parametrize("base", ["shadow", "test_c256_thick", "test_inet256_nn2"])
def test_preset_costs_what_it_says(tmp_path: Path, base: str, preset: str) -> None:
    conf = tmp_path / "conf.yml"
    conf.write_text(yaml.safe_dump({"include": [f"{CONFS}/{base}.yml", f"{CONFS}/presets/{preset}.yml"]}))
    engine = Engine(load_config(conf, ["precision=auto"]))
    assert (engine.task.nfe["inpainted"], engine.warnings) == (COST[preset], [])


def test_every_model_yaml_is_included_somewhere() -> None:
    included = {
        name for path in CONFS.glob("*.yml") for name in re.findall(r"models/\w+\.yml", path.read_text())
    }
    assert included == {f"models/{path.name}" for path in (CONFS / "models").iterdir()}
    assert {path.stem for path in (CONFS / "presets").iterdir()} == set(COST)


# The keys of RePaint's public YAMLs (none of its files is copied); True where nothing here reads them.
DEAD_TOP = {
    "lr_kernel_n_std": 2,
    "num_samples": 100,
    "latex_name": "RePaint",
    "method_name": "Repaint",
    "n_jobs": 25,
    "print_estimated_vars": True,
    "inpa_inj_sched_prev_cumnoise": False,
    "classifier_use_fp16": False,
}
DEAD_DATA = {
    "mask_loader": True,
    "image_size": 16,
    "class_cond": False,
    "deterministic": True,
    "random_crop": False,
    "random_flip": False,
    "return_dict": True,
    "drop_last": False,
    "return_dataloader": True,
    "offset": 0,
    "ds_conf": {"name": "fix_thick_256"},
}
LIVE_TOP = {
    "diffusion_steps": 1000,
    "learn_sigma": True,
    "noise_schedule": "linear",
    "num_heads": 4,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
    "classifier_scale": 4.0,
    "show_progress": True,
    "use_kl": False,
    "predict_xstart": False,
    "rescale_timesteps": False,
    "rescale_learned_sigmas": False,
    "classifier_width": 128,
    "classifier_depth": 2,
    "classifier_attention_resolutions": "32,16,8",
    "classifier_use_scale_shift_norm": True,
    "classifier_resblock_updown": True,
    "classifier_pool": "attention",
    "num_heads_upsample": -1,
    "dropout": 0.0,
    "use_checkpoint": False,
    "use_new_attention_order": False,
    "clip_denoised": True,
    "use_ddim": False,
    "use_fp16": False,
    "class_cond": False,
    "inpa_inj_sched_prev": True,
}
PATHS = {
    "srs": "./results/old/inpainted",
    "lrs": "./results/old/gt_masked",
    "gts": "./results/old/gt",
    "gt_keep_masks": "./results/old/gt_keep_mask",
}


def legacy(project: Project, **changes: Any) -> Path:
    """A YAML with all the keys of RePaint's, for the tiny model and images in a folder."""
    conf = project(count=2)
    weights = yaml.safe_load(conf.read_text())["model_path"]
    data = {"gt_path": "./gts", "mask_path": "./masks", "batch_size": 4, "max_len": 100, **DEAD_DATA}
    jumps = {"t_T": 6, "n_sample": 1, **SCHEDULE["schedule_jump_params"]}
    content = {
        "name": "old",
        "model_path": weights,
        **MODEL,
        **SCHEDULE,
        **LIVE_TOP,
        **DEAD_TOP,
        "schedule_jump_params": jumps,
        **changes,
        "data": {"eval": {"lama_c256_thick_n100_test": {**data, "paths": PATHS}}},
    }
    conf.write_text(yaml.safe_dump(content))
    return conf


def test_repaint_yaml_runs_unchanged(project: Project, cli: Cli) -> None:
    outcome = cli("--conf_path", legacy(project))
    assert outcome.code == 0
    [warning] = outcome.err.splitlines()
    head, names = warning.split(": ", 2)[:2], warning.split(": ", 2)[2]
    assert head == ["warning", "keys that nothing reads"]
    dead = {*DEAD_TOP, *(f"data.{key}" for key in DEAD_DATA if key != "offset")}
    assert {name.split(" (")[0] for name in names.split(", ")} == dead | {"classifier_scale"}
    files = {str(path) for path in Path("results").rglob("*.png")}
    folders = ("inpainted", "gt_masked", "gt", "gt_keep_mask")
    assert files == {f"results/old/{folder}/p{i}.png" for folder in folders for i in range(2)}
    assert sorted(path.name for path in Path("log/old").iterdir()) == ["overview.png", "run.json", "run.log"]


def test_repaint_yaml_dry_run(project: Project, cli: Cli) -> None:
    outcome = cli("--conf_path", legacy(project, model_path="/cluster/x.pt"), "--dry_run")
    assert outcome.code == 0
    assert "missing: /cluster/x.pt" in outcome.out
    assert f"{NFE} NFE per image" in outcome.out


def test_repaint_yaml_inpaints_as_the_new_one(project: Project, cli: Cli) -> None:
    cli("--conf_path", legacy(project))
    cli("--conf_path", project(count=2))
    for i in range(2):
        old, new = (Path(folder, f"p{i}.png") for folder in ("results/old/inpainted", "log/run/inpainted"))
        with Image.open(old) as first, Image.open(new) as second:
            # The first ran in batches of four: at most a level apart.
            assert np.abs(np.array(first, int) - np.array(second, int)).max() <= 1


CLASSIFIER = {
    "classifier_width": 64,
    "classifier_depth": 1,
    "classifier_attention_resolutions": "8",
    "classifier_scale": 200.0,
    "class_cond": True,
}


@pytest.fixture
def guided_project(project: Project) -> Path:
    """A class-conditional tiny model with a tiny classifier; both random."""
    torch.manual_seed(1)
    shape = ClassifierConfig(classifier_width=64, classifier_depth=1, classifier_attention_resolutions="8")
    classifier = build_classifier(shape, 16, str(MODEL["channel_mult"]))
    torch.save(
        {k: v + 0.05 * torch.randn_like(v) for k, v in classifier.state_dict().items()}, "classifier.pt"
    )
    conf = project(count=1)
    weights = yaml.safe_load(conf.read_text())["model_path"]
    labels = {"label_emb.weight": 0.5 * torch.randn(1000, 128)}
    torch.save({**torch.load(weights, weights_only=True), **labels}, "class_cond.pt")
    return project(count=1, model_path="class_cond.pt", classifier_path="classifier.pt", **CLASSIFIER)


def inpaint(conf: Path, *overrides: str) -> np.ndarray:
    [result] = Engine(load_config(conf, overrides))()
    assert inpainted(result) is not None, result.error
    return inpainted(result)


@pytest.mark.parametrize("method", ["rule=ddpm", "rule=ddim", "method=ddpm", "method=ddim"])
def test_classifier_guidance_follows_the_class(guided_project: Path, method: str) -> None:
    guided = inpaint(guided_project, method, "cond_y=3")
    assert np.array_equal(guided, inpaint(guided_project, method, "cond_y=3"))
    others = (
        ["cond_y=4"],
        ["cond_y=3", "classifier_scale=0"],
        [],
    )  # another class, no guidance, a drawn class
    for other in (inpaint(guided_project, method, *overrides) for overrides in others):
        assert not np.array_equal(guided, other)
        assert np.array_equal(guided[keep_mask()], other[keep_mask()])


@pytest.mark.parametrize("rule", ["ddpm", "ddim"])
def test_classifier_guidance_works_without_class_cond(
    guided_project: Path, tiny_weights: Path, rule: str
) -> None:
    plain = [f"rule={rule}", "class_cond=false", f"model_path={tiny_weights}"]
    three, four = (inpaint(guided_project, *plain, f"cond_y={y}") for y in (3, 4))
    assert not np.array_equal(three, four)


@pytest.mark.parametrize("rescale", [False, True])
def test_classifier_gets_the_times_of_the_network(guided_project: Path, rescale: bool) -> None:
    respaced = ["diffusion_steps=400", "timestep_respacing='5'", f"rescale_timesteps={rescale}"]
    engine = Engine(load_config(guided_project, ["method=ddpm", *respaced]))
    assert engine.models.classifier is not None
    times_seen: dict[str, list[float]] = {"network": [], "classifier": []}
    for name, module in (("network", engine.models.network), ("classifier", engine.models.classifier)):
        times = times_seen[name]
        module.register_forward_pre_hook(lambda _, inputs, times=times: times.append(float(inputs[1])))
    list(engine())
    scale = 1000 / 400 if rescale else 1
    assert times_seen["network"] == [scale * t for t in (399, 299, 200, 100, 0)]
    assert times_seen["classifier"] == times_seen["network"]


def test_classifier_that_cannot_take_a_window_fails_only_its_image(guided_project: Path) -> None:
    Image.fromarray(image(0, 24, 61)).save("gts/wide.png")
    Image.fromarray(np.zeros((24, 61), bool)).save("masks/wide.png")
    results = {result.name: result for result in Engine(load_config(guided_project))()}
    assert "would see 40x16 pixels, but the classifier takes 16x16 only" in results["wide"].error
    assert inpainted(results["p0"]) is not None
    assert inpaint(guided_project, "classifier_scale=0", "data.offset=1").shape == (24, 61, 3)


def test_published_classifier_keeps_its_levels() -> None:
    with torch.device("meta"):
        states = [build_classifier(ClassifierConfig(), 256, mult).state_dict() for mult in ("", "1,1")]
    assert states[0].keys() == states[1].keys()
