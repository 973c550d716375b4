"""Keys of task remove_shadow: defaults, mistakes, round trip, fingerprints."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from guided_diffusion.config.fingerprints import fingerprint, relight_fingerprint
from guided_diffusion.config.schema import (
    Config,
    DataConfig,
    from_mapping,
    to_mapping,
)
from guided_diffusion.config.shadow import RelightConfig
from tests.helpers.project import refusal

OUTPUTS = ("inpainted", "shadow_free")
MINIMAL = {"name": "x", "model_path": "m.pt", "task": "remove_shadow"}


def test_defaults() -> None:
    config = from_mapping(MINIMAL)
    assert config.outputs == ("inpainted", "shadow_free") and config.relight == RelightConfig()
    assert (config.data.mask_is, config.data.shadow_free_path, config.save_npz) == ("keep", None, False)


@pytest.mark.parametrize("word", ["inpainted", "shadow_free"])
def test_outputs_accepts_a_single_word(word: str) -> None:
    assert from_mapping({**MINIMAL, "outputs": word}).outputs == (word,)
    assert from_mapping({**MINIMAL, "outputs": [word]}).outputs == (word,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": "shadowfree"}, "outputs[0]: 'shadowfree' is not one of 'inpainted', 'shadow_free'"),
        ({"outputs": ["inpainted", "both"]}, "outputs[1]: 'both' is not one of 'inpainted', 'shadow_free'"),
        ({"outputs": []}, "outputs is empty; name at least one, or delete the key to get all"),
        ({"outputs": 3}, "outputs: 3 is not a list"),
        (
            {"relight": {"pryor": "none"}},
            "unknown key 'relight.pryor'; the nearest known key is 'relight.prior'",
        ),
        ({"relight": {"prior": "gan"}}, "relight.prior: 'gan' is not one of 'none'"),
        ({"relight": {"refine": "yes please"}}, "relight.refine: 'yes please' is not true or false"),
        ({"relight": {"noise": -2}}, "relight.noise: -2 is not a number of at least 0"),
        ({"relight": {"dilate": -1}}, "relight.dilate: -1 is not a number of at least 0"),
        ({"relight": "none"}, "relight: 'none' is not a mapping"),
        ({"data": {"mask_is": "white"}}, "data.mask_is: 'white' is not one of 'keep', 'shadow'"),
        ({"save_npz": 1}, "save_npz: 1 is not true or false"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str) -> None:
    assert message in refusal(from_mapping, {**MINIMAL, **change}, (), "", None, None, OUTPUTS)


def test_round_trip() -> None:
    change = {
        "outputs": ["shadow_free"],
        "save_npz": True,
        "relight": {"prior": "diffusion", "dilate": 0.5},
        "data": {"mask_path": "auto", "mask_is": "shadow", "shadow_free_path": "f"},
        "paths": {"shadow_frees": "a", "shadow_mattes": "b", "shadow_fields": "c"},
    }
    config = from_mapping({**MINIMAL, **change})
    mapping = to_mapping(config)
    assert from_mapping(mapping) == config
    assert mapping["outputs"] == ["shadow_free"] and mapping["relight"] == asdict(config.relight)


def test_use_ddim_sets_the_rule_of_its_sampler() -> None:
    config = from_mapping({**MINIMAL, "use_ddim": True})
    assert config.options == {"rule": "ddim"} and config.warnings == ()


BASE = from_mapping(MINIMAL)
RELIGHT = {"relight": RelightConfig(dilate=0.5)}
SAMPLING: list[dict[str, Any]] = [{"options": {"eta": 0.5}}, {"windows": "overlap"}]
NEITHER: dict[str, Any] = {
    "outputs": ("shadow_free",),
    "save_npz": True,
    "data": DataConfig("a", "b", 1, None, 0, "shadow", "c"),
}


def prints(config: Config) -> tuple[str, str, str]:
    """Fingerprints of `inpainted`, and of `shadow_free` without and with a prior."""
    weights = {"weights": "w"}
    return (
        fingerprint(config, weights),
        relight_fingerprint(config, None),
        relight_fingerprint(config, weights),
    )


def test_fingerprint_of_each_output_follows_its_keys() -> None:
    inpainted, shadow_free, with_prior = prints(BASE)
    assert len({inpainted, shadow_free, with_prior}) == 3
    other = prints(replace(BASE, **RELIGHT))
    assert other[0] == inpainted and other[1] != shadow_free and other[2] != with_prior
    for change in SAMPLING:
        other = prints(replace(BASE, **change))
        assert other[0] != inpainted and other[1:] == (shadow_free, with_prior)
        black = replace(BASE, relight=RelightConfig(inpaint_black=True))
        assert prints(replace(black, **change))[2] != prints(black)[2]
    other = prints(replace(BASE, seed=1))
    assert all(a != b for a, b in zip(other, (inpainted, shadow_free, with_prior), strict=True))
    for key, value in NEITHER.items():
        assert prints(replace(BASE, **{key: value})) == (inpainted, shadow_free, with_prior), key
