"""Files, includes and overrides merged into a mapping: precedence and refusals."""

import pytest

from guided_diffusion.config.schema import DataConfig, load
from tests.helpers.project import refusal

MINIMAL = {"name": "x", "model_path": "m.pt"}
REPAINT = {
    **MINIMAL,
    "num_channels": 256,
    "schedule_jump_params": {"t_T": 250, "jump_length": 10},
    "data": {"eval": {"set": {"gt_path": "g", "mask_path": "m", "paths": {"srs": "s", "gts": "t"}}}},
}
KEYS = ("schedule_jump_params",)


# includes


def test_includes_later_wins_and_own_keys_win_over_all(write):
    write("a.yml", {"seed": 1, "device": "cpu", "schedule_jump_params": {"t_T": 9, "n_sample": 2}})
    write("parts/b.yml", {"seed": 2, "schedule_jump_params": {"n_sample": 3}, "include": "c.yml"})
    write("parts/c.yml", {"cond_y": 7, "seed": 3})
    config = load(write("m.yml", {**MINIMAL, "include": ["a.yml", "parts/b.yml"], "cond_y": 8}), (), KEYS)
    assert (config.seed, config.device, config.cond_y) == (2, "cpu", 8)
    assert config.options == {"schedule_jump_params": {"t_T": 9, "n_sample": 3}}


def test_include_own_data_wins_over_an_included_repaint_dataset(write):
    write("r.yml", REPAINT)
    path = write("m.yml", {"include": "r.yml", "data": {"gt_path": "mine"}, "paths": {"srs": "out"}})
    config = load(path, (), KEYS)
    assert config.data == DataConfig("mine", "m")
    assert (config.paths.srs, config.paths.gts) == ("out", "t")


def test_include_may_be_shared_but_not_circular(write):
    write("a.yml", {"seed": 1})
    write("b.yml", {"include": "a.yml"})
    assert load(write("m.yml", {**MINIMAL, "include": ["a.yml", "b.yml"]})).seed == 1
    write("a.yml", {"include": "b.yml"})
    assert "includes itself by way of m.yml, a.yml, b.yml" in refusal(
        load, write("m.yml", {"include": "a.yml"})
    )


# --set


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("seed=3", lambda c: c.seed, 3),
        ("paste_known=false", lambda c: c.paste_known, False),
        ("data.gt_path=a=b c", lambda c: c.data.gt_path, "a=b c"),
        ("data.max_len=null", lambda c: c.data.max_len, None),
        ("data.eval.other.gt_path=d", lambda c: c.data.gt_path, "d"),
        ("paths.srs=out", lambda c: c.paths.srs, "out"),
        ("schedule_jump_params.t_T=100", lambda c: c.options["schedule_jump_params"]["t_T"], 100),
        ("schedule_jump_params.t_T=100", lambda c: c.options["schedule_jump_params"]["jump_length"], 10),
        ("timestep_respacing=[10, 15, 25]", lambda c: c.process.num_steps, 50),
        ("timestep_respacing=100", lambda c: c.process.timestep_respacing, "100"),
        ("channel_mult=1,2,2", lambda c: c.model.channel_mults, (1, 2, 2)),
        ("classifier_scale=1e-1", lambda c: c.classifier.classifier_scale, 0.1),
        ("precision=bf16", lambda c: c.precision, "bf16"),
    ],
)
def test_override_reaches_its_key(override, read, value, write):
    assert read(load(write("r.yml", REPAINT), [override], KEYS)) == value


def test_override_last_wins(write):
    assert load(write("m.yml", MINIMAL), ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set 'seed' is not key=value"),
        ("=3", "--set '=3' is not key=value"),
        ("sede=3", "unknown key 'sede' (in --set sede=3); the nearest known key is 'seed'"),
        ("data.gt_pth=3", "the nearest known key is 'data.gt_path'"),
        ("data=3", "data: 3 is not a mapping of keys to values (in --set data=3)"),
        ("seed=[1", "'[1' is not a YAML value"),
        ("seed=1.5", "seed: 1.5 is not an integer"),
        ("name=5", "name: 5 is not text (in quotes if need be)"),
    ],
)
def test_override_mistakes(override, message, write):
    assert message in refusal(load, write("m.yml", MINIMAL), [override])


# files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file: None is not a mapping"),
        ("seed: 1\nname: x\nseed: 2\n", "line 3: 'seed' is given twice"),
        ("- a\n- b\n", "the file: ['a', 'b'] is not a mapping"),
        ("name: x\nseed: [1\nb: 2\n", "m.yml, line 3"),
        ("name: x\n\tseed: 1\n", "m.yml, line 2"),
        ("a: 2020-99-99", "m.yml is not valid YAML"),
        ("a: \x00", "m.yml is not valid YAML"),
        ("include: nowhere.yml", "nowhere.yml: No such file or directory"),
        ("include: 3", "include: 3 is not a file name"),
    ],
)
def test_read_yaml_refuses_a_broken_file(content, message, write):
    assert message in refusal(load, write("m.yml", content))


def test_read_yaml_refuses_a_missing_file(tmp_path):
    assert "--conf_path confs/shadow.yml" in refusal(load, None)
    assert "No such file" in refusal(load, tmp_path / "none.yml")
    assert "Is a directory" in refusal(load, tmp_path)
    (tmp_path / "b.yml").write_bytes(b"name: \xff")
    assert "not valid YAML" in refusal(load, tmp_path / "b.yml")
