"""Datasets for shadow removal in their published layout: folders, matching images, scenes.

Roles: pred (the prediction), shadow_free (the ground truth), mask (255 = shadow), shadow (the input), against
(another prediction).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from guided_diffusion.errors import DatasetError
from guided_diffusion.images.files import join_path, path_kind, read_bytes
from guided_diffusion.images.formats import EXTENSIONS
from guided_diffusion.images.pairs import images_by_stem

# ISTD has test_A, test_B, test_C below test/. ISTD+ has the same, or its adjusted colours in a separate
# folder. SRD has shadow and shadow_free below SRD_Test/ or test/; its masks are a separate download.
_PARENTS = ("{split}", "{Split}", "SRD_{Split}", "")
_FOLDERS = {
    "shadow_free": ("{split}_C_fixed_official", "{split}_C_fixed", "{split}_C", "shadow_free", "free"),
    "mask": ("{split}_B", "mask", "masks", "{split}mask"),
    "shadow": ("{split}_A", "shadow"),
}
# SRD calls the ground truth of IMG_1.jpg IMG_1_no_shadow.jpg (train) or IMG_1_free.jpg (test).
_SUFFIX = re.compile(r"_(no_?shadow|shadow_?free|free|mask)$", re.IGNORECASE)


@dataclass(frozen=True)
class EvalItem:
    """The files of an image."""

    name: str
    """relative POSIX path without extension"""
    files: Mapping[str, str]
    """role -> path"""


def dataset_folders(root: str, split: str) -> dict[str, str]:
    """Find the folders of a dataset: role -> path, for shadow_free and those of mask and shadow that exist.

    Args:
        root: folder of the dataset, as unpacked.
        split: `test` or `train`.

    Raises:
        DatasetError: if there is no folder with the ground truth.
    """
    names = {"split": split, "Split": split.capitalize()}
    for parent in (join_path(root, part.format(**names)) for part in _PARENTS):
        folders: dict[str, str] = {}
        for role, candidates in _FOLDERS.items():
            for path in (join_path(parent, candidate.format(**names)) for candidate in candidates):
                if path_kind(path) == "folder":
                    folders.setdefault(role, path)
        if "shadow_free" in folders:
            return folders
    candidates = _FOLDERS["shadow_free"]
    searched = ", ".join(candidate.format(**names) for candidate in candidates)
    raise DatasetError(
        f"--dataset {root} has no folder with the ground truth ({searched}), neither in {split} nor directly"
        "; correct the path or --split, or name the folders with --shadow_free, --mask and --shadow"
    )


def match_images(folders: Mapping[str, str]) -> tuple[list[EvalItem], dict[str, list[str]]]:
    """Match the images of all folders by name.

    The names are those in `folders["pred"]`. In another folder a name matches itself or, failing that, the
    name with or without a suffix such as _free, _no_shadow or _mask.

    Args:
        folders: role -> path.

    Returns:
        The images that all folders have, sorted by name; and role -> names that this folder lacks. An image
        of the ground truth without a prediction is lacking in "pred".

    Raises:
        DatasetError: if a folder is missing or empty, or nothing matches.
    """
    listed = {role: images_by_stem(path, f"--{role}") for role, path in folders.items()}
    loose = {role: _by_plain_name(named) for role, named in listed.items()}
    items: list[EvalItem] = []
    lacking: dict[str, list[str]] = {}
    used: set[str] = set()
    for key, (name, _) in listed["pred"].items():
        hits = {role: named.get(key) or loose[role].get(_plain_name(key)) for role, named in listed.items()}
        files = {role: hit[1] for role, hit in hits.items() if hit is not None}
        used.add(files.get("shadow_free", ""))
        for role in folders.keys() - files.keys():
            lacking.setdefault(role, []).append(name)
        if len(files) == len(folders):
            items.append(EvalItem(name, files))
    if not items:
        raise DatasetError(_explain_no_match(folders, listed, lacking))
    unmatched = [name for name, path in listed["shadow_free"].values() if path not in used]
    return sorted(items, key=lambda item: item.name), lacking | ({"pred": unmatched} if unmatched else {})


def _by_plain_name(named: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {_plain_name(key): hit for key, hit in named.items()}


def _plain_name(stem: str) -> str:
    return _SUFFIX.sub("", stem)


def _explain_no_match(
    folders: Mapping[str, str],
    listed: Mapping[str, Mapping[str, tuple[str, str]]],
    lacking: Mapping[str, Sequence[str]],
) -> str:
    role = max(lacking, key=lambda role: len(lacking[role]))
    examples = [next(iter(listed[r].values()))[0] for r in ("pred", role)]
    return (
        f"no image in --pred {folders['pred']} has its counterpart in --{role} {folders[role]} "
        f"({examples[0]} there, {examples[1]} here); files must have the same name, the extension aside"
    )


def scene_of(name: str) -> str:
    """Derive the scene from an image's name.

    A final `-3` or `_3` is dropped if a digit remains (ISTD: 100-1 is of scene 100). Otherwise (IMG_6456) the
    image is its own scene.
    """
    head = re.sub(r"[-_]\d+$", "", _plain_name(name))
    return head if re.search(r"\d", PurePosixPath(head).name) else name


def read_scenes(path: str, names: Sequence[str]) -> list[str]:
    """Read the scene of each name from a CSV with the columns name and scene.

    Raises:
        DatasetError: if the file cannot be read, or lacks a column or a name.
    """
    if path_kind(path) != "file":
        raise DatasetError(f"--scenes {path} is no file; name a CSV with the columns name and scene")
    try:
        rows = list(csv.DictReader(io.StringIO(read_bytes(path).decode("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"--scenes {path} cannot be read as CSV in UTF-8 ({error}); save it as one"
        ) from error
    if not rows or not {"name", "scene"} <= rows[0].keys():
        raise DatasetError(f"--scenes {path} lacks the columns name and scene, or any row; add them")
    scenes = {_without_extension(row["name"] or ""): row["scene"] or "" for row in rows}
    missing = [name for name in names if not scenes.get(name)]
    if missing:
        raise DatasetError(
            f"--scenes {path} gives no scene for {len(missing)} of {len(names)} images "
            f"({', '.join(missing[:3])}); add rows for them"
        )
    return [scenes[name] for name in names]


def _without_extension(name: str) -> str:
    path = PurePosixPath(name.strip())
    return str(path.with_suffix("") if path.suffix.lower() in EXTENSIONS else path)
