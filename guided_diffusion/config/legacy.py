"""Old spellings: keys of public RePaint YAMLs, and keys of this project that have a new name."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from guided_diffusion.config.builder import as_mapping, construct, dotted_keys
from guided_diffusion.errors import ConfigError

RENAMED = {
    "data.free_path": "data.shadow_free_path",
    "relight.look_twice": "relight.second_pass",
    "relight.paint_black": "relight.inpaint_black",
}
"""Old key -> new key, in the same group. Fingerprints still hash the old keys."""

METHODS: dict[str, dict[str, str]] = {"relight": {"task": "remove_shadow", "method": "repaint"}}
"""Old value of `method` -> the keys that say the same now."""

RULE_METHODS = ("repaint",)
"""Methods whose key `rule` the flag use_ddim sets; it does nothing for others."""


@dataclass(frozen=True)
class Flags:
    """Flags of guided-diffusion's and RePaint's code that another key replaces."""

    use_fp16: bool = False
    """`precision: fp16`, unless `precision` is set."""
    use_ddim: bool = False
    """`rule: ddim` of method `repaint`, unless `rule` is set."""
    use_kl: bool = False
    """Nothing: it chooses another training loss and does not affect sampling."""


FLAGS = tuple(f.name for f in fields(Flags))

_LOADER_KEYS = (
    "mask_loader",
    "deterministic",
    "random_crop",
    "random_flip",
    "drop_last",
    "return_dict",
    "return_dataloader",
    "ds_conf",
)
RETIRED = frozenset(
    {
        "lr_kernel_n_std",
        "num_samples",
        "latex_name",
        "method_name",
        "n_jobs",
        "print_estimated_vars",
        "inpa_inj_sched_prev_cumnoise",
        "classifier_use_fp16",
        "respace_interpolate",
        "use_value_logger",
        "debug",
        "data.image_size",
        "data.class_cond",
        "paths.root",
        *_LOADER_KEYS,
        *(f"data.{key}" for key in _LOADER_KEYS),
    }
)
"""Keys of RePaint's YAMLs that do nothing here. Most do nothing in RePaint either."""


def rename_keys(mapping: Mapping[str, Any], where: str, notices: list[str]) -> dict[str, Any]:
    """Replace old keys by new ones, before files and overrides are merged. Raises ConfigError.

    notices: receives a text for each key that was replaced.
    """
    renamed = dict(mapping)
    for old, new in RENAMED.items():
        (group, old_key), (_, new_key) = old.split("."), new.split(".")
        values = renamed.get(group)
        if not isinstance(values, Mapping) or old_key not in values:
            continue
        if new_key in values:
            source = f" (in {where})" if where else ""
            raise ConfigError(f"{old} is the old name of {new}; keep {new} only{source}")
        renamed[group] = {new_key if key == old_key else key: value for key, value in values.items()}
        notices.append(f"{old} (now {new})")
    return renamed


def translate_method(mapping: Mapping[str, Any], notices: list[str]) -> dict[str, Any]:
    """Replace an old value of `method` by the keys that say the same now, after merging. A given task
    wins."""
    method = mapping.get("method")
    if not isinstance(method, str) or method not in METHODS:
        return dict(mapping)
    task = METHODS[method]["task"]
    notices.append(f"method: {method} (now task: {task})")
    return {"task": task, **mapping, "method": METHODS[method]["method"]}


def drop_retired(
    mapping: Mapping[str, Any], nested: Collection[str], live: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """Take the retired keys out of a mapping; return the rest and the dotted names of what was taken out.

    nested: keys that hold a mapping. live: keys that a sampler reads, whatever they mean in RePaint.
    """
    dropped = [key for key in dotted_keys(mapping, nested) if key in RETIRED and key not in live]
    rest = {key: value for key, value in mapping.items() if key not in dropped}
    for group in nested:
        if group in rest:
            values = as_mapping(rest[group], "", group)
            rest[group] = {key: value for key, value in values.items() if f"{group}.{key}" not in dropped}
    return rest, dropped


def apply_flags(
    mapping: Mapping[str, Any], options: dict[str, Any], where: str
) -> tuple[dict[str, Any], list[str]]:
    """Replace the flags by the keys that say the same, unless those are set. Raises ConfigError.

    Args:
        options: Keys of the samplers; `rule` is added here.

    Returns the mapping without the flags, and a text for each flag that does nothing.
    """
    rest = {key: value for key, value in mapping.items() if key not in FLAGS}
    flags = construct(Flags, {key: mapping[key] for key in FLAGS if key in mapping}, where)
    unread = []
    if flags.use_fp16:
        rest.setdefault("precision", "fp16")
    if flags.use_ddim and ("method" not in rest or rest["method"] in RULE_METHODS):
        options.setdefault("rule", "ddim")
    elif flags.use_ddim:
        unread.append(f"use_ddim (it belongs to method {' or '.join(RULE_METHODS)})")
    if flags.use_kl:
        unread.append("use_kl")
    return rest, unread
