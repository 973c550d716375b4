"""Old spellings: what they mean now, what the notice says, and that fingerprints do not change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from guided_diffusion.build import SAMPLER_KEYS
from guided_diffusion.config.fingerprints import fingerprint, relight_fingerprint
from guided_diffusion.config.schema import Config, from_mapping, load, to_mapping
from guided_diffusion.samplers import SAMPLERS
from tests.helpers.project import ROOT, refusal

MINIMAL = {"name": "x", "model_path": "m.pt"}
# Fingerprints of the code before `task`, with its spelling of every key and, where it differs, today's.
GOLDEN: dict[str, Any] = json.loads((ROOT / "tests/golden/fingerprints.json").read_text())


def case_id(case: dict[str, Any]) -> str:
    return " ".join([case["conf"], *case["old"]])


def prints(config: Config) -> list[str]:
    extra, finder = GOLDEN["extra"], GOLDEN["finder"]
    return [
        fingerprint(config, extra),
        relight_fingerprint(config, None),
        relight_fingerprint(config, extra, finder),
    ]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=case_id)
def test_fingerprints_do_not_change(case: dict[str, Any]) -> None:
    path = ROOT / "confs" / f"{case['conf']}.yml"
    config = load(path, case.get("new", case["old"]), SAMPLER_KEYS, SAMPLERS)
    assert prints(config) == case["prints"]
    assert prints(from_mapping(to_mapping(config), SAMPLER_KEYS)) == case["prints"] or config.retired


@pytest.mark.parametrize("case", [c for c in GOLDEN["cases"] if c["conf"] in GOLDEN["bases"]], ids=case_id)
def test_fingerprints_of_old_spellings_do_not_change(case: dict[str, Any], tmp_path: Path) -> None:
    """`bases` holds the YAMLs of before in their old spelling."""
    path = tmp_path / "old.yml"
    path.write_text(yaml.safe_dump(GOLDEN["bases"][case["conf"]]))
    config = load(path, case["old"], SAMPLER_KEYS, SAMPLERS)
    assert prints(config) == case["prints"]
    assert len(config.warnings) <= 2 and config.warnings[:1] != ()


def test_method_relight_is_task_remove_shadow() -> None:
    config = from_mapping({**MINIMAL, "method": "relight"})
    assert (config.task, config.method) == ("remove_shadow", "repaint")
    assert config == from_mapping({**MINIMAL, "task": "remove_shadow"})
    assert config.warnings == ("old spellings: method: relight (now task: remove_shadow)",)


def test_method_relight_loses_against_a_task() -> None:
    config = from_mapping({**MINIMAL, "method": "relight", "task": "inpaint"})
    assert (config.task, config.method) == ("inpaint", "repaint")


def test_override_of_method_relight_is_an_inpainting_method_as_before(write: Any) -> None:
    path = write("m.yml", {**MINIMAL, "method": "relight"})
    config = load(path, ["method=ddnm"])
    assert (config.task, config.method, config.warnings) == ("inpaint", "ddnm", ())
    config = load(write("n.yml", MINIMAL), ["method=relight"])
    assert (config.task, config.method) == ("remove_shadow", "repaint")


def test_renamed_keys_are_translated_with_a_single_notice() -> None:
    old = {"data": {"free_path": "f"}, "relight": {"look_twice": False, "paint_black": True}}
    new = {
        "data": {"shadow_free_path": "f"},
        "relight": {"second_pass": False, "inpaint_black": True},
    }
    config = from_mapping({**MINIMAL, **old})
    assert config == from_mapping({**MINIMAL, **new})
    (notice,) = config.warnings
    assert notice == (
        "old spellings: data.free_path (now data.shadow_free_path), relight.look_twice (now "
        "relight.second_pass), relight.paint_black (now relight.inpaint_black)"
    )
    assert to_mapping(config)["relight"]["second_pass"] is False


@pytest.mark.parametrize("file_key", ["look_twice", "second_pass"])
@pytest.mark.parametrize("override_key", ["look_twice", "second_pass"])
def test_override_wins_in_either_spelling(write: Any, file_key: str, override_key: str) -> None:

    write("i.yml", {"relight": {file_key: True}})
    path = write("m.yml", {**MINIMAL, "include": "i.yml"})
    assert load(path).relight.second_pass is True
    assert load(path, [f"relight.{override_key}=false"]).relight.second_pass is False
    path = write("n.yml", {**MINIMAL, "include": "i.yml", "relight": {override_key: False}})
    assert load(path).relight.second_pass is False


def test_both_spellings_in_a_file_are_refused() -> None:
    settings = {"look_twice": True, "second_pass": True}
    error = refusal(from_mapping, {**MINIMAL, "relight": settings}, (), "m.yml")
    assert error == (
        "relight.look_twice is the old name of relight.second_pass; keep relight.second_pass only (in m.yml)"
    )


def test_new_task_and_method_need_no_change_here() -> None:
    mapping = {**MINIMAL, "task": "decompose", "method": "magic", "outputs": ["shading"]}
    names = {"methods": ("magic",), "tasks": ("decompose",), "outputs": ("shading",)}
    config = from_mapping(mapping, **names)
    assert (config.task, config.method, config.outputs) == ("decompose", "magic", ("shading",))
    assert fingerprint(config, {}) != fingerprint(
        from_mapping({**mapping, "task": "inpaint"}, **{**names, "tasks": ("inpaint",)}), {}
    )
