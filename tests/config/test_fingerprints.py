"""Fingerprints: the settings that change them. test_legacy.py compares them with earlier ones."""

from dataclasses import replace

import pytest

from guided_diffusion.config.fingerprints import fingerprint
from guided_diffusion.config.schema import (
    ClassifierConfig,
    DataConfig,
    ModelConfig,
    PathsConfig,
    ProcessConfig,
    from_mapping,
)

KEYS = ("eta", "rule")
MINIMAL = {"name": "x", "model_path": "m.pt"}

IMAGE_CHANGES = [
    {"seed": 1},
    {"clip_denoised": False},
    {"method": "ddnm"},
    {"task": "remove_shadow"},
    {"task": "remove_shadow", "method": "ddnm"},
    {"paste_known": False},
    {"cond_y": 3},
    {"model": ModelConfig(image_size=64)},
    {"process": ProcessConfig(timestep_respacing="100")},
    {"classifier": ClassifierConfig(classifier_scale=2.0)},
    {"options": {"eta": 0.5}},
]
OTHER_CHANGES = {
    "name": "y",
    "model_path": "other.pt",
    "device": "cpu",
    "show_progress": False,
    "generate": 4,
    "compile": True,
    "precision": "bf16",
    "retired": ("num_samples",),
    "model": ModelConfig(per_pixel_time=True),
    "data": DataConfig("a", "b", 4, 10, 2),
    "paths": PathsConfig("a"),
}


def test_fingerprint_follows_what_changes_the_images():
    base = from_mapping(MINIMAL)
    prints = [fingerprint(replace(base, **change), {}) for change in IMAGE_CHANGES]
    prints += [fingerprint(base, {}), fingerprint(base, {"gt": "abc"})]
    assert len(set(prints)) == len(IMAGE_CHANGES) + 2
    assert all(len(bytes.fromhex(value)) == 32 for value in prints)


@pytest.mark.parametrize("key", OTHER_CHANGES)
def test_fingerprint_ignores_paths_and_amounts(key):
    base = from_mapping(MINIMAL)
    assert fingerprint(replace(base, **{key: OTHER_CHANGES[key]}), {}) == fingerprint(base, {})


def test_fingerprint_does_not_depend_on_spelling():
    first = from_mapping({**MINIMAL, "eta": 1, "rule": "ddim", "timestep_respacing": [10, 20]}, KEYS)
    second = from_mapping({"timestep_respacing": "10,20", "rule": "ddim", "eta": 1, **MINIMAL}, KEYS)
    assert fingerprint(first, {"a": 1, "b": 2}) == fingerprint(second, {"b": 2, "a": 1})
