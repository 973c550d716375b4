"""YAML to Config: shipped YAMLs, RePaint's YAMLs, mistakes, round trip."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_diffusion.config.builder import construct
from guided_diffusion.config.schema import (
    ClassifierConfig,
    Config,
    DataConfig,
    ModelConfig,
    PathsConfig,
    ProcessConfig,
    from_mapping,
    load,
    to_mapping,
)
from guided_diffusion.scheduler import JumpSchedule, count_nfe
from tests.helpers.project import refusal
from tests.helpers.results import folders

CONFS = Path(__file__).resolve().parents[2] / "confs"
KEYS = {
    "schedule_jump_params": JumpSchedule,
    "inpa_inj_sched_prev": bool,
    "inpa_inj_time_shift": int,
    "clip_denoised": bool,
    "eta": float,
    "rule": str,
    "t_start": int,
    "down_n": int,
}
TASKS = ("inpaint", "remove_shadow")
METHODS = ("repaint", "ddpm", "ddim", "ddnm", "intermediate", "ilvr", "td_paint")
MINIMAL = {"name": "x", "model_path": "m.pt"}
MASKS = ("thin", "thick", "nn2", "ev2li", "genhalf", "ex64")
SHIPPED_NAMES = {
    "face_example",
    "shadow",
    *(f"test_{d}_{m}" for d in ("c256", "inet256", "p256") for m in MASKS),
}


def repaint_yaml(name="test_c256_thin", **changes):
    """A YAML with the keys that RePaint's own have (facts of their contents, not a copy)."""
    loader = {key: True for key in ("mask_loader", "deterministic", "return_dict", "return_dataloader")}
    loader |= {key: False for key in ("class_cond", "random_crop", "random_flip", "drop_last")}
    folders = {"srs": "inpainted", "lrs": "gt_masked", "gts": "gt", "gt_keep_masks": "gt_keep_mask"}
    dataset = {
        **loader,
        "gt_path": "./gts",
        "mask_path": "./masks",
        "image_size": 256,
        "batch_size": 4,
        "max_len": 100,
        "ds_conf": {"name": "random_thin_256"},
        "paths": {key: f"./log/{name}/{folder}" for key, folder in folders.items()},
    }
    return {
        "attention_resolutions": "32,16,8",
        "class_cond": False,
        "diffusion_steps": 1000,
        "learn_sigma": True,
        "noise_schedule": "linear",
        "num_channels": 256,
        "num_head_channels": 64,
        "num_heads": 4,
        "num_res_blocks": 2,
        "resblock_updown": True,
        "use_fp16": False,
        "use_scale_shift_norm": True,
        "classifier_scale": 4.0,
        "lr_kernel_n_std": 2,
        "num_samples": 100,
        "show_progress": True,
        "timestep_respacing": "250",
        "use_kl": False,
        "predict_xstart": False,
        "rescale_timesteps": False,
        "rescale_learned_sigmas": False,
        "classifier_use_fp16": False,
        "classifier_width": 128,
        "classifier_depth": 2,
        "classifier_pool": "attention",
        "classifier_attention_resolutions": "32,16,8",
        "classifier_use_scale_shift_norm": True,
        "classifier_resblock_updown": True,
        "num_heads_upsample": -1,
        "channel_mult": "",
        "dropout": 0.0,
        "use_checkpoint": False,
        "use_new_attention_order": False,
        "clip_denoised": True,
        "use_ddim": False,
        "image_size": 256,
        "model_path": "/cluster/ema.pt",
        "name": name,
        "inpa_inj_sched_prev": True,
        "n_jobs": 25,
        "print_estimated_vars": True,
        "latex_name": "RePaint",
        "method_name": "Repaint",
        "inpa_inj_sched_prev_cumnoise": False,
        "schedule_jump_params": {"t_T": 250, "n_sample": 1, "jump_length": 10, "jump_n_sample": 10},
        "data": {"eval": {"lama_c256_thin_n100_test": dataset}},
        **changes,
    }


# RePaint's YAMLs


def test_repaint_yaml_loads_unchanged(write):
    config = load(write("r.yml", repaint_yaml()), (), KEYS)
    assert config.model == ModelConfig()
    assert config.process == ProcessConfig()
    assert config.data == DataConfig("./gts", "./masks", batch_size=4, max_len=100)
    assert folders(config) == folders(from_mapping({**MINIMAL, "name": "test_c256_thin"}))
    assert config.paths.srs == "./log/test_c256_thin/inpainted"
    assert config.model_path == "/cluster/ema.pt"
    assert config.precision == "auto"
    assert "rule" not in config.options
    times = construct(JumpSchedule, config.options["schedule_jump_params"]).times(config.process.num_steps)
    assert count_nfe(times) == (2410, 2160)


def test_retired_keys_give_a_single_warning(write):
    (warning,) = load(write("r.yml", repaint_yaml()), (), KEYS).warnings
    for key in (
        "num_samples",
        "n_jobs",
        "latex_name",
        "data.mask_loader",
        "data.ds_conf",
        "classifier_scale",
    ):
        assert key in warning
    assert "\n" not in warning


def test_imagenet_yaml_sets_fp16_and_classifier(write):
    changes = {"class_cond": True, "use_fp16": True, "classifier_scale": 1, "classifier_path": "c.pt"}
    config = load(write("r.yml", repaint_yaml(**changes)), (), KEYS)
    assert (config.precision, config.model.class_cond) == ("fp16", True)
    assert config.classifier == ClassifierConfig("c.pt", 1.0)
    assert "classifier_scale" not in config.warnings[0]


def test_shadow_diffusion_yaml_loads(write):
    changes = {
        "attention_resolutions": "16,8",
        "diffusion_steps": 400,
        "num_channels": 128,
        "num_head_channels": -1,
        "resblock_updown": False,
        "timestep_respacing": "",
        "rescale_timesteps": True,
        "rescale_learned_sigmas": True,
    }
    config = load(write("r.yml", repaint_yaml(**changes)), (), KEYS)
    assert config.process.num_steps == 400
    assert config.process.rescale_timesteps
    assert config.model.attention_downsamples == (16, 32)


def test_precision_wins_over_use_fp16():
    assert from_mapping({**MINIMAL, "use_fp16": True, "precision": "fp32"}).precision == "fp32"


def test_use_ddim_becomes_the_rule_of_repaint():
    assert from_mapping({**MINIMAL, "use_ddim": True}).options == {"rule": "ddim"}
    assert from_mapping({**MINIMAL, "use_ddim": True, "rule": "ddpm"}, KEYS).options == {"rule": "ddpm"}
    plain = from_mapping({**MINIMAL, "use_ddim": True, "method": "ddim"})
    assert plain.options == {}
    assert "use_ddim" in plain.warnings[0]


@pytest.mark.parametrize("names", [(), ("a", "b")])
def test_data_eval_holds_exactly_one_dataset(names):
    message = refusal(from_mapping, {**MINIMAL, "data": {"eval": {name: {} for name in names}}})
    assert f"holds {len(names)} datasets ({', '.join(names)})" in message
    assert "give each its own YAML" in message


# our own YAMLs


def test_shipped_yaml_names():
    assert {path.stem for path in CONFS.glob("*.yml")} >= SHIPPED_NAMES


@pytest.mark.parametrize("path", sorted(CONFS.glob("*.yml")), ids=lambda path: path.stem)
def test_shipped_yaml_loads_without_a_warning(path):
    config = load(path, (), KEYS)
    assert config.warnings == ()
    assert config.name == path.stem
    assert config.options.keys() <= KEYS.keys()


@pytest.mark.parametrize(("preset", "nfe"), [("draft", 45), ("fast", 280), ("paper", 2410)])
def test_preset_costs_what_it_says(preset, nfe, write):
    path = CONFS / "presets" / f"{preset}.yml"
    config = load(write("p.yml", {**MINIMAL, "include": str(path)}), (), KEYS)
    times = construct(JumpSchedule, config.options["schedule_jump_params"]).times(config.process.num_steps)
    assert count_nfe(times)[0] == nfe
    assert f"{nfe} network function evaluations" in path.read_text()


@pytest.mark.parametrize("path", sorted(CONFS.glob("models/*.yml")), ids=lambda path: path.stem)
def test_model_file_is_complete(path, write):
    config = load(write("m.yml", {"name": "x", "include": str(path)}))
    assert config.warnings == ()
    assert config.model_path.startswith("./data/pretrained/") or config.model_path == "scenes64.pt"


# mistakes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule_jump_parms": {}}, "unknown key 'schedule_jump_parms'"),
        ({"schedule_jump_parms": {}}, "the nearest known key is 'schedule_jump_params'"),
        ({"gt_path": "x"}, "the nearest known key is 'data.gt_path'"),
        ({"start_resampling": 3}, "the nearest known key is 'schedule_jump_params.start_resampling'"),
        ({"data": {"gt_pth": "x"}}, "the nearest known key is 'data.gt_path'"),
        ({1: 2}, "unknown key '1'"),
        ({"num_channels": "256"}, "num_channels: '256' is not an integer"),
        ({"class_cond": 1}, "class_cond: 1 is not true or false"),
        ({"batch_size": 1}, "the nearest known key is 'data.batch_size'"),
        ({"data": {"batch_size": 0}}, "data.batch_size: 0 is not an integer of at least 1"),
        ({"data": None}, "data: None is not a mapping"),
        ({"data": {"paths": 3}}, "data.paths: 3 is not a mapping"),
        ({"data": {"eval": {"a": 3}}}, "data.eval.a: 3 is not a mapping"),
        ({"method": "magic"}, "method: 'magic' is not one of 'repaint', 'ddpm'"),
        ({"method": "repant"}, "'td_paint'; the nearest is 'repaint'"),
        (
            {"task": "remove"},
            "task: 'remove' is not one of 'inpaint', 'remove_shadow'; the nearest is 'remove_",
        ),
        ({"noise_schedule": "cosin"}, "noise_schedule: 'cosin' is not one of 'linear', 'cosine'"),
        ({"device": "gpu"}, "device 'gpu' is none of auto, cpu, cuda and cuda:N"),
        ({"image_size": 96}, "channel_mult has no default for image_size 96; set it, e.g. '1,2,2,4'"),
        ({"image_size": 100, "channel_mult": "1,1,1,1"}, "image_size 100 cannot be halved 3 times"),
        ({"channel_mult": "1,x"}, "channel_mult '1,x' is not a list of positive numbers"),
        ({"attention_resolutions": "0"}, "attention_resolutions '0' is not a list of positive numbers"),
        ({"timestep_respacing": "many"}, "timestep_respacing 'many' is none of"),
        ({"timestep_respacing": 1001}, "timestep_respacing '1001' asks for 1001 steps; diffusion_steps 1000"),
        ({"timestep_respacing": "0"}, "asks for 0 steps"),
        ({"use_fp16": "yes"}, "use_fp16: 'yes' is not true or false"),
        ({"name": ""}, "name is empty"),
        ({"name": "../elsewhere"}, "leads out of log/"),
    ],
)
def test_mistakes(change, message, write):
    path = write("m.yml", {**MINIMAL, **change})
    error = refusal(load, path, (), KEYS, METHODS, TASKS)
    assert message in error
    assert str(path) in error


@pytest.mark.parametrize("key", MINIMAL)
def test_required_keys(key):
    mapping = {k: v for k, v in MINIMAL.items() if k != key}
    assert refusal(from_mapping, mapping).startswith(f"{key} is missing")


def test_paths_default_to_folders_in_the_log_folder():
    config = from_mapping({**MINIMAL, "paths": {"lrs": "elsewhere"}})
    names = ("inpainted", "gt_masked", "gt", "gt_keep_mask", "shadow_free", "shadow_matte", "shadow_field")
    keys = ("srs", "lrs", "gts", "gt_keep_masks", "shadow_frees", "shadow_mattes", "shadow_fields")
    expected = {key: f"log/x/{name}" for key, name in zip(keys, names, strict=True)}
    assert folders(config) == {**expected, "lrs": "elsewhere"}


# round trip

text = st.text(min_size=1)
maybe_text = st.none() | text
configs = st.builds(
    Config,
    name=st.text(st.characters(exclude_characters="/."), min_size=1),  # "/" and ".." lead out of log/
    model_path=text,
    task=st.sampled_from(["inpaint", "remove_shadow"]),
    method=st.sampled_from(["repaint", "ddpm", "ddim", "ddnm", "intermediate", "ilvr"]),
    seed=st.integers(),
    device=st.sampled_from(["auto", "cpu", "cuda", "cuda:3"]),
    precision=st.sampled_from(["auto", "fp32", "tf32", "bf16", "fp16"]),
    compile=st.sampled_from(["auto", True, False]),
    paste_known=st.booleans(),
    generate=st.integers(0),
    cond_y=st.none() | st.integers(0),
    model=st.builds(
        ModelConfig,
        image_size=st.sampled_from([64, 128, 256, 512]),
        num_channels=st.integers(1),
        attention_resolutions=st.sampled_from(["", "16", "32,16,8"]),
        channel_mult=st.sampled_from(["", "1,2", "0.5,1,1"]),
        dropout=st.floats(0, 1),
        learn_sigma=st.booleans(),
        per_pixel_time=st.booleans(),
    ),
    process=st.builds(
        ProcessConfig,
        noise_schedule=st.sampled_from(["linear", "cosine"]),
        timestep_respacing=st.sampled_from(["", "250", "10,15,25", "ddim50"]),
        rescale_timesteps=st.booleans(),
    ),
    classifier=st.builds(ClassifierConfig, maybe_text, st.floats(-10, 10)),
    data=st.builds(
        DataConfig, maybe_text, maybe_text, st.integers(1), st.none() | st.integers(1), st.integers(0)
    ),
    paths=st.builds(PathsConfig, maybe_text, maybe_text, maybe_text, maybe_text),
    options=st.fixed_dictionaries(
        {}, optional={"eta": st.floats(0, 1), "schedule_jump_params": st.just({"t_T": 3}), "rule": text}
    ),
)


@settings(max_examples=60, deadline=None)
@given(configs)
def test_to_mapping_round_trips_through_json(config):
    assert from_mapping(json.loads(json.dumps(to_mapping(config))), KEYS) == config


def test_use_kl_changes_nothing():
    assert from_mapping({**MINIMAL, "use_kl": False}).warnings == ()
    assert from_mapping({**MINIMAL, "use_kl": True}).warnings == ("keys that nothing reads: use_kl",)
