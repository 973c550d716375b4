"""Score shadow removal: `python -m guided_diffusion.evaluate --pred DIR --shadow_free DIR --mask DIR`.

Computes the papers' measures and the additional ones of `evaluation/shadow_metrics.py`, for each image and as
means with 90 % bootstrap intervals over scenes. Exit code 0: all predictions were scored; 1: some could not
be scored; 2: none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from guided_diffusion.errors import DatasetError, ImageError
from guided_diffusion.evaluation.shadow_datasets import (
    EvalItem,
    dataset_folders,
    match_images,
    read_scenes,
    scene_of,
)
from guided_diffusion.evaluation.shadow_metrics import SIDE, score
from guided_diffusion.evaluation.shadow_report import (
    ROLE_TITLES,
    ImageScores,
    format_differences,
    format_images,
    format_table,
    to_csv,
)
from guided_diffusion.images.colour import Illuminant
from guided_diffusion.images.files import write_bytes
from guided_diffusion.images.formats import read_image

EXAMPLES = """\
examples:
  python -m guided_diffusion.evaluate --pred log/shadow/shadow_free --shadow_free DIR --mask DIR
  python -m guided_diffusion.evaluate --pred log/shadow/shadow_free --dataset ISTD --split test
  python -m guided_diffusion.evaluate --pred A --dataset SRD --mask SRD_masks --against B

Images are matched by name without extension and without _free, _no_shadow, _mask.
Exit code 0: all predictions were scored; 1: some could not be scored (each is named); 2: none.
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line (by default that of the process)."""
    parser = argparse.ArgumentParser(
        prog="python -m guided_diffusion.evaluate",
        description="Score shadow-removal results by the papers' protocol and by additional measures.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--pred", required=True, metavar="DIR", help="predictions, of any size")
    add("--shadow_free", "--free", metavar="DIR", help="ground truth: shadow-free images")
    add(
        "--mask",
        metavar="DIR",
        help="shadow masks, 255 = shadow; every value above 0 counts as shadow, as in the benchmarks",
    )
    add("--shadow", metavar="DIR", help="input images: adds their own scores and the texture correlation")
    add("--dataset", metavar="ROOT", help="root of ISTD, ISTD+ or SRD, instead of the three above")
    add("--split", default="test", help="split of --dataset (default test)")
    add("--against", metavar="DIR", help="other predictions: adds paired differences")
    add("--lab", choices=("d65", "d50"), default="d65", help="white of LAB; MATLAB's is d50 (default d65)")
    add(
        "--scenes",
        metavar="CSV",
        help="which scene each image shows, columns name and scene. Default: the name less a final -NUMBER "
        "or _NUMBER, if a digit remains (100-1 is of scene 100); else the image is its own scene",
    )
    add("--csv", metavar="FILE", help="write all scores of all images to this file")
    return parser.parse_args(arguments)


def find_folders(options: argparse.Namespace) -> dict[str, str]:
    """Find the folder of each role; a named folder takes precedence over that of --dataset.

    Raises:
        DatasetError: if there is no folder of ground truth or masks.
    """
    folders = dataset_folders(options.dataset, options.split) if options.dataset else {}
    for role in ("pred", "shadow_free", "mask", "shadow", "against"):
        if getattr(options, role) is not None:
            folders[role] = getattr(options, role)
    for role in ("shadow_free", "mask"):
        if role not in folders:
            reason = f"--dataset {options.dataset} has no such folder" if options.dataset else "is not set"
            raise DatasetError(f"--{role}: {reason}; give --{role} DIR")
    return folders


def score_image(item: EvalItem, scene: str, lab: Illuminant) -> tuple[ImageScores, np.ndarray]:
    """Score an image; also returns its mask as stored, uint8 (H, W).

    Raises:
        ImageError: if a file cannot be read.
    """
    images = {role: read_image(path) for role, path in item.files.items()}
    mask = images["mask"].max(axis=2)
    scores = {
        role: score(images[role], images["shadow_free"], mask, images.get("shadow"), lab)
        for role in ROLE_TITLES
        if role in images
    }
    for measures in scores.values():
        measures["pixels_ns"] = SIDE**2 - measures["pixels_s"]
        if "shadow" in scores:
            measures["lab_ns_beyond"] = measures["lab_ns"] - scores["shadow"]["lab_ns"]
    return ImageScores(item.name, scene, scores), mask


def score_images(items: Sequence[EvalItem], scenes: Sequence[str], lab: Illuminant) -> list[ImageScores]:
    """Score all images that can be read; warn of the others and of suspicious masks."""
    scored, grey, empty = [], [], []
    for item, scene in zip(tqdm(items, desc="scoring", disable=None), scenes, strict=True):
        try:
            scores, mask = score_image(item, scene, lab)
        except ImageError as error:
            warn(f"{item.name} is left out: {error}")
            continue
        scored.append(scores)
        if not mask.any():
            empty.append(item.name)
        if len(np.unique(mask)) > 2:
            grey.append(item.name)
    if grey:
        warn(
            f"{count_images(grey)} with greys in the mask: all that is not 0 counts as shadow, "
            "as in the benchmark"
        )
    if empty:
        warn(f"{count_images(empty)} without shadow in the mask: they count outside the shadow only")
    inputs = [image.scores["shadow"] for image in scored if "shadow" in image.scores]
    if inputs and sum(measures["lab_s"] < measures["lab_ns"] for measures in inputs) > len(inputs) / 2:
        warn(
            "most inputs differ from the ground truth outside the masks, not inside; "
            "masks must be 255 in the shadow"
        )
    return scored


def count_images(names: Sequence[str]) -> str:
    """Format how many images these are, with the first three names."""
    examples = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
    return f"{len(names)} image{'s' * (len(names) > 1)} ({examples})"


def warn(message: str) -> None:
    """Print a warning beside the progress bar."""
    tqdm.write(f"warning: {message}", file=sys.stderr)


def describe(folders: Mapping[str, str], scored: Sequence[ImageScores], lab: str) -> list[str]:
    """Say which folders were scored, and how."""
    scenes = len({image.scene for image in scored})
    lines = [f"{role}: {path}" for role, path in folders.items()]
    lines.append(f"{len(scored)} images of {scenes} scenes at {SIDE}x{SIDE}, LAB for {lab.upper()}.")
    lines.append(
        "In brackets: 90 % bootstrap intervals over scenes." if scenes > 1 else "One scene: no intervals."
    )
    return lines


def evaluate(options: argparse.Namespace) -> int:
    """Match, score, print and write; returns the exit code.

    Raises:
        DatasetError: if nothing can be scored, or the CSV cannot be written.
    """
    folders = find_folders(options)
    items, lacking = match_images(folders)
    for role, names in lacking.items():
        warn(f"{count_images(names)} left out: none of that name in --{role} {folders[role]}")
    names = [item.name for item in items]
    scenes = read_scenes(options.scenes, names) if options.scenes else [scene_of(name) for name in names]
    scored = score_images(items, scenes, options.lab)
    if not scored:
        raise DatasetError(f"none of {count_images(names)} can be read; repair the files named above")
    sections = [format_images(scored), describe(folders, scored, options.lab), format_table(scored)]
    if "against" in folders:
        sections.append(format_differences(scored))
    print("\n\n".join("\n".join(section) for section in sections if section))
    if options.csv:
        try:
            write_bytes(options.csv, to_csv(scored))
        except OSError as error:
            raise DatasetError(f"--csv {options.csv}: {error.strerror}; choose another path") from error
    return 1 if len(scored) < len(items) or lacking.keys() - {"pred"} else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit codes are those in the head of this file."""
    options = parse(arguments)
    try:
        return evaluate(options)
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
