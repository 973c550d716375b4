"""Keys of public RePaint YAMLs, and of its code, that are called otherwise here or do nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guided_diffusion.config.builder import construct


@dataclass(frozen=True)
class Translated:
    """Keys that say here: precision fp16, and rule ddim."""

    use_fp16: bool = False
    use_ddim: bool = False


_LOADER_KEYS = (
    *("mask_loader", "deterministic", "random_crop", "random_flip", "drop_last"),
    *("return_dict", "return_dataloader", "ds_conf"),
)
# They do nothing here, nor mostly there.
RETIRED = frozenset(
    (
        *("lr_kernel_n_std", "num_samples", "latex_name", "method_name", "n_jobs", "print_estimated_vars"),
        *("inpa_inj_sched_prev_cumnoise", "classifier_use_fp16", "respace_interpolate", "use_value_logger"),
        *("debug", "data.image_size", "data.class_cond", "paths.root"),
        *(*_LOADER_KEYS, *(f"data.{key}" for key in _LOADER_KEYS)),
    )
)


def translate(
    old: Mapping[str, Any], top: dict[str, Any], options: dict[str, Any], repaints: bool, where: str
) -> list[str]:
    """Puts what the keys `old` of Translated mean into `top` and `options`, unless it is said there already.

    repaints: the method is one with RePaint's rule. Returns the keys that nothing reads. Raises ConfigError.
    """
    flags = construct(Translated, old, where)
    if flags.use_fp16:
        top.setdefault("precision", "fp16")
    if flags.use_ddim and repaints:
        options.setdefault("rule", "ddim")
    return ["use_ddim (it belongs to method repaint)"] if flags.use_ddim and not repaints else []
