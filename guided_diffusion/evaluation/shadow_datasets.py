"""Sets for shadow removal as they come: which folders, which images belong together, which scene is shown.

Roles: pred (what is judged), free (the truth), mask (255 = shadow), shadow (the input), against (a rival).
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

# ISTD has test_A, test_B, test_C below test/; ISTD+ the same, or with the colours adjusted in a folder of its
# own; SRD has shadow and shadow_free below SRD_Test/ or test/, its masks are a download of their own.
_PARENTS = ("{split}", "{Split}", "SRD_{Split}", "")
_FOLDERS = {
    "free": ("{split}_C_fixed_official", "{split}_C_fixed", "{split}_C", "shadow_free", "free"),
    "mask": ("{split}_B", "mask", "masks", "{split}mask"),
    "shadow": ("{split}_A", "shadow"),
}
# SRD calls the truth of IMG_1.jpg IMG_1_no_shadow.jpg (train) or IMG_1_free.jpg (test).
_SUFFIX = re.compile(r"_(no_?shadow|shadow_?free|free|mask)$", re.IGNORECASE)


@dataclass(frozen=True)
class Item:
    """One image: its name (relative POSIX path without extension), and role -> file."""

    name: str
    files: Mapping[str, str]


def dataset_folders(root: str, split: str) -> dict[str, str]:
    """Role -> folder, for as many of free, mask and shadow as lie below `root`, free among them.

    Raises DatasetError if there is no folder with the truth.
    """
    names = {"split": split, "Split": split.capitalize()}
    for parent in (join_path(root, part.format(**names)) for part in _PARENTS):
        found: dict[str, str] = {}
        for role, candidates in _FOLDERS.items():
            for path in (join_path(parent, candidate.format(**names)) for candidate in candidates):
                if path_kind(path) == "folder":
                    found.setdefault(role, path)
        if "free" in found:
            return found
    looked = ", ".join(candidate.format(**names) for candidate in _FOLDERS["free"])
    raise DatasetError(
        f"--dataset {root} has no folder with the truth ({looked}), neither in {split} nor directly; "
        "mend the path or --split, or name the folders with --free, --mask and --shadow"
    )


def match(folders: Mapping[str, str]) -> tuple[list[Item], dict[str, list[str]]]:
    """The images that all `folders` (role -> path) have, and role -> names that it lacks.

    Names are those in `folders["pred"]`; elsewhere a name matches itself, or, failing that, itself with or
    without what `_SUFFIX` knows. What only the truth has is lacking in "pred".
    Raises DatasetError when a folder is missing or empty, or when nothing matches.
    """
    listed = {role: images_by_stem(path, f"--{role}") for role, path in folders.items()}
    loose = {role: _loosely(named) for role, named in listed.items()}
    items: list[Item] = []
    lacking: dict[str, list[str]] = {}
    used: set[str] = set()
    for key, (name, _) in listed["pred"].items():
        hits = {role: named.get(key) or loose[role].get(_plain(key)) for role, named in listed.items()}
        files = {role: hit[1] for role, hit in hits.items() if hit is not None}
        used.add(files.get("free", ""))
        for role in folders.keys() - files.keys():
            lacking.setdefault(role, []).append(name)
        if len(files) == len(folders):
            items.append(Item(name, files))
    if not items:
        raise DatasetError(_nothing(folders, listed, lacking))
    unjudged = [name for name, path in listed["free"].values() if path not in used]
    return sorted(items, key=lambda item: item.name), lacking | ({"pred": unjudged} if unjudged else {})


def _loosely(named: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {_plain(key): hit for key, hit in named.items()}


def _plain(stem: str) -> str:
    return _SUFFIX.sub("", stem)


def _nothing(
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
    """The scene that a name tells: without a last `-3` or `_3`, if a digit is left (ISTD: 100-1 is of 100).

    Else (IMG_6456) the image is a scene of its own.
    """
    head = re.sub(r"[-_]\d+$", "", _plain(name))
    return head if re.search(r"\d", PurePosixPath(head).name) else name


def read_scenes(path: str, names: Sequence[str]) -> list[str]:
    """The scene of each name, from a CSV with the columns name and scene. Raises DatasetError."""
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
    scenes = {_bare(row["name"] or ""): row["scene"] or "" for row in rows}
    missing = [name for name in names if not scenes.get(name)]
    if missing:
        raise DatasetError(
            f"--scenes {path} gives no scene for {len(missing)} of {len(names)} images "
            f"({', '.join(missing[:3])}); add rows for them"
        )
    return [scenes[name] for name in names]


def _bare(name: str) -> str:
    path = PurePosixPath(name.strip())
    return str(path.with_suffix("") if path.suffix.lower() in EXTENSIONS else path)
