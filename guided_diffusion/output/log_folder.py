"""The log folder of a run: images, run.json, overview.png; what is finished, and how it is kept whole.

An output of an image is finished when its file carries the key of its config, image, mask and weights.
That file is written last and atomically, so a run that was killed goes on where it stopped, and whatever is
finished is in run.json.
"""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guided_diffusion.errors import ImageError
from guided_diffusion.images.files import join_path, path_kind, write_bytes
from guided_diffusion.images.formats import contact_sheet, read_image, read_text, resize, write_image
from guided_diffusion.output.results import Lifted, Result, printable

KEY = "penumbra"  # name of the PNG text chunk that holds an image's key
OUTPUTS = {"inpainted": "srs", "shadow_free": "shadow_frees"}  # output -> folder
COMPANIONS = {"inpainted": (), "shadow_free": ("shadow_mattes", "shadow_fields")}  # finished with it
TRUTH = "truth"  # not a folder of ours: images that the user has
OVERVIEW_ROWS = 24
OVERVIEW_CELL = 256
FILLED_COLUMNS = {"lrs": "masked", "srs": "filled", "gts": "original", TRUTH: "truth"}
LIFTED_COLUMNS = {
    **{"gts": "input", "lrs": "masked", "srs": "inpainted", "shadow_mattes": "matte"},
    **{"shadow_frees": "shadow-free", TRUTH: "truth"},
}


class LogFolder:
    """Where a run writes.

    root: of run.json and overview.png; folders: srs, lrs, gts, gt_keep_masks and, for method relight,
    shadow_frees, shadow_mattes, shadow_fields, local or remote; head: as `describe_run` gives it; columns: of
    the overview, folders -> titles; truths: names -> images to be shown there beside the results;
    leads: whether it writes run.json and overview.png, or images alone, of which `report` tells a leader.
    Several threads may save. Methods raise OSError when the place cannot be written.
    """

    def __init__(
        self,
        root: str,
        folders: Mapping[str, str],
        head: Mapping[str, Any],
        columns: Mapping[str, str] = FILLED_COLUMNS,
        truths: Mapping[str, str] | None = None,
        leads: bool = True,
    ) -> None:
        self.root, self.folders, self.head = root, folders, head
        self.columns, self.truths, self.leads = columns, truths or {}, leads
        self.images: dict[str, dict[str, Any]] = self._earlier()
        self.shown: dict[str, dict[str, str]] = {}  # name -> folder -> file
        self.turn = threading.Lock()  # to say something of an image

    def _earlier(self) -> dict[str, dict[str, Any]]:
        """What earlier runs of the same config said of the images they finished."""
        try:
            told = json.loads(Path(self.root, "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(told, dict) or told.get("fingerprint") != self.head["fingerprint"]:
            return {}
        return {name: image for name, image in told["images"].items() if "error" not in image}

    def _path(self, folder: str, name: str) -> str:
        return join_path(self.folders[folder], f"{name}.png")

    def has(self, name: str, output: str, key: str) -> bool:
        """True if this output of this image was finished with this key."""
        if read_text(self._path(OUTPUTS[output], name)).get(KEY) != key:
            return False
        return all(path_kind(self._path(folder, name)) == "file" for folder in COMPANIONS[output])

    def save(self, result: Result) -> None:
        """Write a result's images; the finished ones last, when run.json tells of them already."""
        if result.error:
            with self.turn:
                self.images[result.name] = {"evaluations": 0, "seconds": 0.0, "error": result.error}
            return
        sides = _sides(result)
        for folder, image in sides.items():
            path = self._path(folder, result.name)
            if not (result.reused and path_kind(path) == "file"):
                write_image(path, image)
        with self.turn:
            if result.reused:
                self.images.setdefault(result.name, dict(EARLIER))
            else:
                self.images[result.name] = _told(result, self.images.get(result.name, {}))
                self._write_run()
        for output, image in result.made.items():
            text = {KEY: result.parts[output].key}
            write_image(self._path(OUTPUTS[output], result.name), image, text)
        finished = [folder for output in result.parts for folder in (OUTPUTS[output], *COMPANIONS[output])]
        files = {folder: self._path(folder, result.name) for folder in [*sides, *finished]}
        truth = {TRUTH: self.truths[result.name]} if result.name in self.truths else {}
        self.shown[result.name] = {**files, **truth}

    def report(self, name: str) -> dict[str, Any]:
        """What `accept` wants to know of a saved image: plain values."""
        return {"image": self.images[name], "shown": self.shown.get(name)}

    def accept(self, name: str, image: dict[str, Any], shown: dict[str, str] | None) -> None:
        """Take note of an image that another rank has saved."""
        with self.turn:
            known = self.images.get(name)
            self.images[name] = image
            if shown is not None:
                self.shown[name] = shown
            if image != known:
                self._write_run()

    def _write_run(self) -> None:
        if not self.leads:
            return
        total = sum(image.get("evaluations", 0) for image in self.images.values())
        told = {**self.head, "evaluations": total, "images": dict(sorted(self.images.items()))}
        write_bytes(os.path.join(self.root, "run.json"), (json.dumps(told, indent=1) + "\n").encode())

    def finish(self, names: Sequence[str]) -> str | None:
        """Complete run.json and write overview.png: the first images of `names` that did not fail, without
        the columns that all of them lack. Returns the overview's path, None if all failed."""
        self._write_run()
        chosen = [name for name in names if name in self.shown][:OVERVIEW_ROWS]
        if not chosen:
            return None
        present = [folder for folder in self.columns if any(folder in self.shown[name] for name in chosen)]
        rows = [[self._small(folder, name) for folder in present] for name in chosen]
        titles = [self.columns[folder] for folder in present]
        path = os.path.join(self.root, "overview.png")
        write_image(path, contact_sheet(rows, titles, [printable(name) for name in chosen], OVERVIEW_CELL))
        return path

    def _small(self, folder: str, name: str) -> np.ndarray:
        """An image no larger than its cell; blank where there is none, or a truth that cannot be read."""
        blank = np.full((1, 1, 3), 255, np.uint8)
        if folder not in self.shown[name]:
            return blank
        try:
            image = read_image(self.shown[name][folder])
        except ImageError:
            if folder != TRUTH:
                raise
            return blank
        shrink = OVERVIEW_CELL / max(image.shape[:2])
        if shrink >= 1:
            return image
        return resize(image, (max(1, round(image.shape[0] * shrink)), max(1, round(image.shape[1] * shrink))))

    def save_npz(self, names: Sequence[str]) -> str | None:
        """Write samples.npz: the finished images of `names` as guided-diffusion's samplers give theirs.

        arr_0 is uint8 (N, H, W, 3) and `names` says whose they are: inpainted, or shadow_free where that is
        all there is. Images of several sizes go into arrays of their own, arr_0 to arr_{N-1}, each
        (H, W, 3); that is returned as one line of warning. At least one image must be finished.
        """
        files = {name: self.shown[name] for name in names if name in self.shown}
        main = [files[name].get("srs") or files[name]["shadow_frees"] for name in files]
        images = [read_image(path) for path in main]
        alike = len({image.shape for image in images}) == 1
        arrays = [np.stack(images)] if alike else images
        buffer = io.BytesIO()
        np.savez(buffer, *arrays, names=np.array(list(files), dtype=np.str_))
        write_bytes(os.path.join(self.root, "samples.npz"), buffer.getvalue())
        last = len(images) - 1
        return None if alike else f"images of several sizes: in samples.npz they are arr_0 to arr_{last}"


EARLIER = {"note": "finished in an earlier run"}


def _sides(result: Result) -> dict[str, np.ndarray]:
    """Folder -> image of what is written beside the outputs, as far as there is something."""
    sides = {"lrs": result.masked, "gts": result.gt, "gt_keep_masks": result.keep}
    if result.lifted is not None:
        sides |= {
            "shadow_mattes": _levels(result.lifted.matte),
            "shadow_fields": _levels(result.lifted.field),
        }
    return {folder: image for folder, image in sides.items() if image is not None}


def _levels(shares: np.ndarray | None) -> np.ndarray | None:
    """0..1 as 0..255, uint8."""
    return None if shares is None else np.rint(shares * 255).astype(np.uint8)


def _told(result: Result, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """An image's entry in run.json; with method relight the whole, then each output's own share."""
    if result.lifted is None:
        return _cost(result)
    parts = {
        output: _cost(part) if output in result.made else earlier.get(output, EARLIER)
        for output, part in result.parts.items()
    }
    keys = "evaluations", "seconds"
    sums = {key: round(sum(part.get(key, 0) for part in parts.values()), 3) for key in keys}
    return {**sums, **({"note": result.notes} if result.notes else {}), **parts}


def _cost(part: Result | Lifted) -> dict[str, Any]:
    told = {"evaluations": part.nfe, "seconds": round(part.seconds, 3)}
    return {**told, **({"note": part.note} if part.note else {})}
