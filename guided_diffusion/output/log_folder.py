"""The log folder of a run: images, run.json and overview.png; which images are finished.

An output of an image is finished when its file carries the key of its config, image, mask and weights. That
file is written last and atomically, so a run that was killed resumes where it stopped, and every finished
image is in run.json.
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
from guided_diffusion.images.contact_sheet import contact_sheet
from guided_diffusion.images.files import join_path, path_kind, write_bytes
from guided_diffusion.images.formats import read_image, read_text, resize, write_image
from guided_diffusion.output.results import (
    GT,
    INPUT_FOLDERS,
    KEEP_MASK,
    MASKED,
    Folder,
    Output,
    OutputSpec,
    Result,
    one_line,
)

KEY = "penumbra"  # name of the PNG text chunk that holds an image's key
GROUND_TRUTH = Folder("", title="truth")  # not a folder of the run: images that the user has
OVERVIEW_ROWS = 24
OVERVIEW_CELL = 256
EARLIER = {"note": "finished in an earlier run"}
_OLD_KEYS = {"evaluations": "nfe"}  # of an image in run.json before keys were renamed


class LogFolder:
    """The folder that a run writes to. Several threads may save.

    Methods raise OSError for a file that cannot be written.

    Args:
        root: folder of run.json and overview.png.
        paths: the YAML group `paths`: folders, local or remote, that take the place of those below `root`.
        head: of run.json, from `describe_run`.
        outputs: what the task can make.
        ground_truths: image names -> files to be shown beside the results.
        leads: write run.json and overview.png; otherwise images alone, of which `report` informs a leader.
    """

    def __init__(
        self,
        root: str,
        paths: Mapping[str, str | None],
        head: Mapping[str, Any],
        outputs: Sequence[OutputSpec],
        ground_truths: Mapping[str, str] | None = None,
        leads: bool = True,
    ) -> None:
        self.root, self.paths, self.head = root, paths, head
        self.outputs = {spec.name: spec for spec in outputs}
        self.ground_truths, self.leads = ground_truths or {}, leads
        self.images: dict[str, dict[str, Any]] = self._read_earlier_run()
        self.shown: dict[str, dict[str, str]] = {}  # name -> folder -> file
        self.lock = threading.Lock()  # of `images` and run.json

    def _read_earlier_run(self) -> dict[str, dict[str, Any]]:
        """Read what earlier runs with the same fingerprint reported of the images they finished."""
        try:
            run = json.loads(Path(self.root, "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(run, dict) or run.get("fingerprint") != self.head["fingerprint"]:
            return {}
        images: dict[str, Any] = run["images"] if "images" in run else run["pictures"]
        return {name: _with_current_keys(image) for name, image in images.items() if "error" not in image}

    def _path(self, folder: Folder, name: str) -> str:
        root = self.paths.get(folder.paths_key) or join_path(self.root, folder.name)
        return join_path(root, f"{name}.png")

    def has(self, name: str, output: str, key: str) -> bool:
        """Return True if this output of this image was finished with this key."""
        spec = self.outputs[output]
        if read_text(self._path(spec.folder, name)).get(KEY) != key:
            return False
        return all(path_kind(self._path(folder, name)) == "file" for folder in spec.companions.values())

    def save(self, result: Result) -> None:
        """Write a result's images; the finished ones last, when run.json already has them."""
        if result.error:
            with self.lock:
                self.images[result.name] = {"nfe": 0, "seconds": 0.0, "error": result.error}
            return
        sides = self._side_images(result)
        for folder, image in sides.items():
            path = self._path(folder, result.name)
            if not (result.reused and path_kind(path) == "file"):
                write_image(path, image)
        with self.lock:
            if result.reused:
                self.images.setdefault(result.name, dict(EARLIER))
            else:
                self.images[result.name] = self._entry(result, self.images.get(result.name, {}))
                self._write_run()
        for name, output in result.computed.items():
            assert output.image is not None
            write_image(self._path(self.outputs[name].folder, result.name), output.image, {KEY: output.key})
        self.shown[result.name] = self._shown_files(result, sides)

    def _side_images(self, result: Result) -> dict[Folder, np.ndarray]:
        """Collect what is written beside the outputs, as far as there is something."""
        sides: dict[Folder, np.ndarray | None] = {
            MASKED: result.masked,
            GT: result.gt,
            KEEP_MASK: result.keep,
        }
        for name, output in result.outputs.items():
            for extra, folder in self.outputs[name].companions.items():
                sides[folder] = _levels(output.extras.get(extra))
        return {folder: image for folder, image in sides.items() if image is not None}

    def _shown_files(self, result: Result, sides: Mapping[Folder, np.ndarray]) -> dict[str, str]:
        """Map folder names to the files of one image."""
        specs = [self.outputs[name] for name in result.outputs]
        folders = [*sides, *(f for spec in specs for f in (spec.folder, *spec.companions.values()))]
        files = {folder.name: self._path(folder, result.name) for folder in folders}
        if result.name in self.ground_truths:
            files[GROUND_TRUTH.name] = self.ground_truths[result.name]
        return files

    def _entry(self, result: Result, earlier: Mapping[str, Any]) -> dict[str, Any]:
        """Describe an image in run.json: its cost, and each output's share if the task can make several."""
        shares = {
            name: _cost(output) if name in result.computed else earlier.get(name, EARLIER)
            for name, output in result.outputs.items()
        }
        if len(self.outputs) == 1:
            return dict(*shares.values())
        sums = {key: round(sum(s.get(key, 0) for s in shares.values()), 3) for key in ("nfe", "seconds")}
        return {**sums, **({"note": result.notes} if result.notes else {}), **shares}

    def report(self, name: str) -> dict[str, Any]:
        """Return what `accept` needs to know of a saved image: plain values."""
        return {"image": self.images[name], "shown": self.shown.get(name)}

    def accept(self, name: str, image: dict[str, Any], shown: dict[str, str] | None) -> None:
        """Take note of an image that another rank has saved."""
        with self.lock:
            known = self.images.get(name)
            self.images[name] = image
            if shown is not None:
                self.shown[name] = shown
            if image != known:
                self._write_run()

    def _write_run(self) -> None:
        if not self.leads:
            return
        nfe = sum(image.get("nfe", 0) for image in self.images.values())
        run = {**self.head, "nfe": nfe, "images": dict(sorted(self.images.items()))}
        write_bytes(os.path.join(self.root, "run.json"), (json.dumps(run, indent=1) + "\n").encode())

    def finish(self, names: Sequence[str]) -> str | None:
        """Complete run.json and write overview.png; returns its path, None if all images failed.

        The overview has the first images of `names` that did not fail, without the columns that all lack.
        """
        self._write_run()
        chosen = [name for name in names if name in self.shown][:OVERVIEW_ROWS]
        if not chosen:
            return None
        columns = [f for f in self._columns() if any(f.name in self.shown[name] for name in chosen)]
        rows = [[self._thumbnail(folder, name) for folder in columns] for name in chosen]
        titles, labels = [folder.title for folder in columns], [one_line(name) for name in chosen]
        path = os.path.join(self.root, "overview.png")
        write_image(path, contact_sheet(rows, titles, labels, OVERVIEW_CELL))
        return path

    def _columns(self) -> list[Folder]:
        """The folders that the overview shows, from left to right."""
        outputs = (f for spec in self.outputs.values() for f in (*spec.companions.values(), spec.folder))
        return [folder for folder in (*INPUT_FOLDERS, *outputs, GROUND_TRUTH) if folder.title]

    def _thumbnail(self, folder: Folder, name: str) -> np.ndarray:
        """Read an image, no larger than its cell; blank if there is none, or an unreadable ground truth."""
        blank = np.full((1, 1, 3), 255, np.uint8)
        if folder.name not in self.shown[name]:
            return blank
        try:
            image = read_image(self.shown[name][folder.name])
        except ImageError:
            if folder is not GROUND_TRUTH:
                raise
            return blank
        scale = OVERVIEW_CELL / max(image.shape[:2])
        if scale >= 1:
            return image
        return resize(image, (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))))

    def save_npz(self, names: Sequence[str]) -> str | None:
        """Write samples.npz: the finished images of `names`, as guided-diffusion's samplers do.

        arr_0 is uint8 (N, H, W, 3) and `names` holds their names; of the task's first output that was made.
        Images of several sizes go into arrays of their own, arr_0 to arr_{N-1}, each (H, W, 3); that is
        returned as one line of warning. At least one image must be finished.
        """
        files = {name: self.shown[name] for name in names if name in self.shown}
        folders = [spec.folder.name for spec in self.outputs.values()]
        paths = [next(shown[f] for f in folders if f in shown) for shown in files.values()]
        images = [read_image(path) for path in paths]
        same_size = len({image.shape for image in images}) == 1
        arrays = [np.stack(images)] if same_size else images
        buffer = io.BytesIO()
        np.savez(buffer, *arrays, names=np.array(list(files), dtype=np.str_))
        write_bytes(os.path.join(self.root, "samples.npz"), buffer.getvalue())
        last = len(images) - 1
        return None if same_size else f"images of several sizes: in samples.npz they are arr_0 to arr_{last}"


def _levels(shares: np.ndarray | None) -> np.ndarray | None:
    """Map 0..1 to 0..255, uint8."""
    return None if shares is None else np.rint(shares * 255).astype(np.uint8)


def _cost(output: Output) -> dict[str, Any]:
    cost = {"nfe": output.nfe, "seconds": round(output.seconds, 3)}
    return {**cost, **({"note": output.note} if output.note else {})}


def _with_current_keys(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the keys of an image in an older run.json, and of its outputs' shares."""
    return {
        _OLD_KEYS.get(key, key): _with_current_keys(value) if isinstance(value, Mapping) else value
        for key, value in entry.items()
    }
