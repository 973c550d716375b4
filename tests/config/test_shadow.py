"""The keys of method relight and of its files: defaults, mistakes, round trip, and what they decide."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from guided_diffusion.config.schema import (
    Config,
    DataConfig,
    fingerprint,
    from_mapping,
    relight_fingerprint,
    to_mapping,
)
from guided_diffusion.config.shadow import RelightConfig
from tests.conftest import refusal

MINIMAL = {"name": "x", "model_path": "m.pt", "method": "relight"}


def test_defaults() -> None:
    config = from_mapping(MINIMAL)
    assert config.outputs == ("inpainted", "shadow_free") and config.relight == RelightConfig()
    assert (config.data.mask_is, config.data.free_path, config.save_npz) == ("keep", None, False)


@pytest.mark.parametrize("word", ["inpainted", "shadow_free"])
def test_one_word_is_a_list_of_one(word: str) -> None:
    assert from_mapping({**MINIMAL, "outputs": word}).outputs == (word,)
    assert from_mapping({**MINIMAL, "outputs": [word]}).outputs == (word,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": "shadowfree"}, "outputs[0]: 'shadowfree' is not one of 'inpainted', 'shadow_free'"),
        ({"outputs": ["inpainted", "both"]}, "outputs[1]: 'both' is not one of 'inpainted', 'shadow_free'"),
        ({"outputs": []}, "outputs is empty; name inpainted, shadow_free or both"),
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
    assert message in refusal(from_mapping, {**MINIMAL, **change})


def test_round_trip() -> None:
    change = {
        "outputs": ["shadow_free"],
        "save_npz": True,
        "relight": {"prior": "diffusion", "dilate": 0.5},
        "data": {"mask_path": "auto", "mask_is": "shadow", "free_path": "f"},
        "paths": {"shadow_frees": "a", "shadow_mattes": "b", "shadow_fields": "c"},
    }
    config = from_mapping({**MINIMAL, **change})
    told = to_mapping(config)
    assert from_mapping(told) == config
    assert told["outputs"] == ["shadow_free"] and told["relight"] == asdict(config.relight)


def test_use_ddim_is_the_rule_of_its_painting() -> None:
    config = from_mapping({**MINIMAL, "use_ddim": True})
    assert config.options == {"rule": "ddim"} and config.warnings == ()


BASE = from_mapping(MINIMAL)
RELIGHT = {"relight": RelightConfig(dilate=0.5)}
PAINTING: list[dict[str, Any]] = [{"options": {"eta": 0.5}}, {"windows": "overlap"}]
NEITHER: dict[str, Any] = {
    "outputs": ("shadow_free",),
    "save_npz": True,
    "data": DataConfig("a", "b", 1, None, 0, "shadow", "c"),
}


def prints(config: Config) -> tuple[str, str, str]:
    """Of what is painted; of what is lifted without and with a prior."""
    weights = {"weights": "w"}
    return (
        fingerprint(config, weights),
        relight_fingerprint(config, None),
        relight_fingerprint(config, weights),
    )


def test_each_output_follows_its_own_keys() -> None:
    painted, lifted, with_prior = prints(BASE)
    assert len({painted, lifted, with_prior}) == 3
    other = prints(replace(BASE, **RELIGHT))
    assert other[0] == painted and other[1] != lifted and other[2] != with_prior
    for change in PAINTING:
        other = prints(replace(BASE, **change))
        assert other[0] != painted and other[1:] == (lifted, with_prior)
        black = replace(BASE, relight=RelightConfig(paint_black=True))
        assert prints(replace(black, **change))[2] != prints(black)[2]
    other = prints(replace(BASE, seed=1))
    assert all(one != two for one, two in zip(other, (painted, lifted, with_prior), strict=True))
    for key, value in NEITHER.items():
        assert prints(replace(BASE, **{key: value})) == (painted, lifted, with_prior), key
