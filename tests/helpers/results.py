"""Short ways to results, to their outputs, and to the folders of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from guided_diffusion.config.schema import Config
from guided_diffusion.engine import TASKS, Engine, load_config
from guided_diffusion.output.log_folder import LogFolder
from guided_diffusion.output.results import INPUT_FOLDERS, Output, Result


def results(conf: Path, *overrides: str) -> dict[str, Result]:
    """Run a YAML; returns its results by name."""
    return {result.name: result for result in Engine(load_config(conf, overrides))()}


def inpainted(result: Result) -> np.ndarray | None:
    """Return the inpainted image, None if there is none or an earlier run finished it."""
    output = result.outputs.get("inpainted")
    return None if output is None else output.image


def inpainted_image(result: Result) -> np.ndarray:
    """Return the inpainted image, which must be there."""
    image = inpainted(result)
    assert image is not None, result.error
    return image


def shadow_free(result: Result) -> Output | None:
    """Return the shadow-free output, None if it was not asked for."""
    return result.outputs.get("shadow_free")


def shadow_free_image(result: Result) -> np.ndarray:
    """Return the shadow-free image, which must be there."""
    output = shadow_free(result)
    assert output is not None and output.image is not None, result.error
    return output.image


def folders(config: Config) -> dict[str, str]:
    """Map each key of the YAML group `paths` that names a folder to the path that LogFolder gives it."""
    outputs = [spec for task in TASKS.values() for spec in task.OUTPUTS]
    log = LogFolder(config.log_dir, vars(config.paths), {"fingerprint": ""}, outputs)
    specs = [folder for spec in outputs for folder in (spec.folder, *spec.companions.values())]
    return {
        folder.paths_key: log._path(folder, "name").removesuffix("/name.png")
        for folder in (*INPUT_FOLDERS, *specs)
    }
