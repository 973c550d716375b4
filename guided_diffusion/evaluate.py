"""Judging shadow removal: `python -m guided_diffusion.evaluate --pred DIR --free DIR --mask DIR`.

The field's protocol and the honest measures of `region_metrics`, image by image and as means, with 90 %
bootstrap intervals over scenes. Exit code 0: all predictions are judged; 1: some could not be; 2: none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from guided_diffusion.errors import DatasetError, ImageError
from guided_diffusion.evaluation.hole_metrics import Illuminant
from guided_diffusion.evaluation.shadow_datasets import Item, dataset_folders, match, read_scenes, scene_of
from guided_diffusion.evaluation.shadow_metrics import SIDE, score
from guided_diffusion.evaluation.shadow_report import NAMES, Judged, differences, each, table, to_csv
from guided_diffusion.images.files import write_bytes
from guided_diffusion.images.formats import read_image


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m guided_diffusion.evaluate",
        description="Judge shadow removal by the field's protocol and by honest measures.",
        epilog="Images are matched by name without extension and without _free, _no_shadow, _mask. "
        "Exit code 0: all predictions are judged; 1: some could not be; 2: none.",
    )
    add = parser.add_argument
    add("--pred", required=True, metavar="DIR", help="predictions, of any size")
    add("--free", metavar="DIR", help="the truth")
    add(
        "--mask",
        metavar="DIR",
        help="shadow masks, 255 = shadow; whatever is not 0 counts, as in the benchmark",
    )
    add("--shadow", metavar="DIR", help="the inputs: adds their own scores and the texture correlation")
    add("--dataset", metavar="ROOT", help="an ISTD, ISTD+ or SRD root, in place of those three")
    add("--split", default="test", help="of --dataset (default test)")
    add("--against", metavar="DIR", help="other predictions: adds paired differences")
    add("--lab", choices=("d65", "d50"), default="d65", help="white of LAB; MATLAB's is d50 (default d65)")
    add(
        "--scenes",
        metavar="CSV",
        help="the images' scenes, columns name and scene; else names tell: what precedes the last -NUMBER "
        "or _NUMBER, if it has a digit (100-1 is of scene 100); else each image is a scene of its own",
    )
    add("--csv", metavar="FILE", help="write every score of every image here")
    return parser.parse_args(arguments)


def find_folders(options: argparse.Namespace) -> dict[str, str]:
    """Role -> folder; what is named goes before what --dataset has. Raises DatasetError."""
    found = dataset_folders(options.dataset, options.split) if options.dataset else {}
    for role in ("pred", "free", "mask", "shadow", "against"):
        if getattr(options, role) is not None:
            found[role] = getattr(options, role)
    for role in ("free", "mask"):
        if role not in found:
            lack = f"--dataset {options.dataset} has no such folder" if options.dataset else "is not set"
            raise DatasetError(f"--{role}: {lack}; give --{role} DIR")
    return found


def judge(item: Item, scene: str, lab: Illuminant) -> tuple[Judged, np.ndarray]:
    """The scores of one image, and its mask as stored, uint8 (H, W). Raises ImageError."""
    images = {role: read_image(path) for role, path in item.files.items()}
    mask = images["mask"].max(axis=2)
    scores = {
        role: score(images[role], images["free"], mask, images.get("shadow"), lab)
        for role in NAMES
        if role in images
    }
    for told in scores.values():
        told["pixels_ns"] = SIDE**2 - told["pixels_s"]
        if "shadow" in scores:
            told["lab_ns_beyond"] = told["lab_ns"] - scores["shadow"]["lab_ns"]
    return Judged(item.name, scene, scores), mask


def judge_all(items: Sequence[Item], scenes: Sequence[str], lab: Illuminant) -> list[Judged]:
    """All images that can be read; warns of the others and of odd masks."""
    judged, grey, empty = [], [], []
    for item, scene in zip(tqdm(items, desc="judging", disable=None), scenes, strict=True):
        try:
            told, mask = judge(item, scene, lab)
        except ImageError as error:
            warn(f"{item.name} is left out: {error}")
            continue
        judged.append(told)
        if not mask.any():
            empty.append(item.name)
        if len(np.unique(mask)) > 2:
            grey.append(item.name)
    if grey:
        warn(f"{some(grey)} with greys in the mask: all that is not 0 counts as shadow, as in the benchmark")
    if empty:
        warn(f"{some(empty)} without shadow in the mask: they count outside the shadow only")
    inputs = [told.scores["shadow"] for told in judged if "shadow" in told.scores]
    if inputs and sum(told["lab_s"] < told["lab_ns"] for told in inputs) > len(inputs) / 2:
        warn(
            "most inputs differ from the truth outside the masks, not inside; masks must be 255 in the shadow"
        )
    return judged


def some(names: Sequence[str]) -> str:
    return f"{len(names)} image{'s' * (len(names) > 1)} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"


def warn(message: str) -> None:
    tqdm.write(f"warning: {message}", file=sys.stderr)


def head(folders: Mapping[str, str], judged: Sequence[Judged], lab: str) -> list[str]:
    """What was judged, by what."""
    scenes = len({told.scene for told in judged})
    lines = [f"{role}: {path}" for role, path in folders.items()]
    lines.append(f"{len(judged)} images of {scenes} scenes at {SIDE}x{SIDE}, LAB for {lab.upper()}.")
    lines.append(
        "In brackets: 90 % bootstrap intervals over scenes." if scenes > 1 else "One scene: no intervals."
    )
    return lines


def evaluate(options: argparse.Namespace) -> int:
    """Find, judge, print, write; returns the exit code. Raises DatasetError."""
    folders = find_folders(options)
    items, lacking = match(folders)
    for role, names in lacking.items():
        warn(f"{some(names)} left out: none of that name in --{role} {folders[role]}")
    names = [item.name for item in items]
    scenes = read_scenes(options.scenes, names) if options.scenes else [scene_of(name) for name in names]
    judged = judge_all(items, scenes, options.lab)
    if not judged:
        raise DatasetError(f"none of {some(names)} can be read; mend the files named above")
    print("\n".join([*each(judged), "", *head(folders, judged, options.lab), "", *table(judged)]))
    if "against" in folders:
        print("\n".join(["", *differences(judged)]))
    if options.csv:
        try:
            write_bytes(options.csv, to_csv(judged))
        except OSError as error:
            raise DatasetError(f"--csv {options.csv}: {error.strerror}; choose another place") from error
    return 1 if len(judged) < len(items) or lacking.keys() - {"pred"} else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit code as the head of this file says."""
    options = parse(arguments)
    try:
        return evaluate(options)
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(
            f"error: --csv {options.csv} cannot be written ({error}); choose another place", file=sys.stderr
        )
    return 2


if __name__ == "__main__":
    sys.exit(main())
