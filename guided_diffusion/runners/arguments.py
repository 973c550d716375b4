"""Arguments of the command `penumbra`, and the settings that they stand for. Loads no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guided_diffusion import __version__
from guided_diffusion.config.shipped import confs, list_yamls
from guided_diffusion.errors import ConfigError

EXAMPLES = """\
examples:
  penumbra photo.jpg                      remove its shadows; the result is shadow_free/photo.png
  penumbra holiday/ -o results            the same for all images in a folder, into results/
  penumbra photo.jpg --mask mask.png      remove the shadow that the mask shows in black
  penumbra photo.jpg --mask mask.png --task inpaint
                                          inpaint what the mask shows in black: inpainted/photo.png
  penumbra --list                         list the YAMLs that ship with Penumbra
  penumbra --conf_path shadow.yml --dry_run
                                          say what a YAML would do, how long it takes and what is missing
  penumbra --conf_path mine.yml --set seed=1 data.max_len=2

Finished images are kept: after an interruption, run the same command again to continue.

exit status:
  0  all images are done
  1  some images failed; each is named with its reason
  2  the arguments or settings are wrong; nothing was written
  130  stopped by Ctrl-C
"""


@dataclass(frozen=True)
class Shortcut:
    """Shipped YAML of a task, and settings, for images that are named without a YAML."""

    conf: str
    """The shipped YAML."""
    settings: tuple[str, ...]
    """Settings laid over it."""
    folder: str
    """Key in `paths` of the folder of the main output."""
    out: str
    """Folder of the results where `-o` is not given."""
    needs_mask: bool
    """The task does not find masks itself."""


SHORTCUTS = {
    "remove_shadow": Shortcut(
        conf="shadow.yml",
        settings=("outputs=[shadow_free]", "data.shadow_free_path=null"),
        folder="shadow_frees",
        out="shadow_free",
        needs_mask=False,
    ),
    "inpaint": Shortcut(conf="inpaint.yml", settings=(), folder="srs", out="inpainted", needs_mask=True),
}
"""Task -> what `--task` stands for without `--conf_path`. A task need not be here: a YAML can name it."""
DEFAULT_TASK = "remove_shadow"


class _ListYamls(argparse.Action):
    """Print the shipped YAMLs and stop."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        yamls = list_yamls()
        width = max(map(len, yamls))
        for name, summary in yamls.items():
            print(f"{name:{width}}  {summary}".rstrip())
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=" ".join(program()),
        description="Remove shadows from images, or inpaint them, with diffusion models.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    images = "an image, or a folder that is searched with its sub-folders"
    add("images", nargs="*", metavar="IMAGE", help=images)
    add(
        *("-o", "--out"),
        metavar="OUT",
        help="folder of the results: OUT/NAME.png, all else in OUT/log (default: shadow_free or inpainted); "
        "with --conf_path, the folder that takes the place of log/NAME",
    )
    add(
        "--mask",
        metavar="MASK",
        help="a mask for all images, or a folder of masks named as the images; white = keep, black = shadow "
        "or hole (default: shadows are found automatically)",
    )
    add(
        "--task",
        metavar="TASK",
        help=f"what to do with the images: {' or '.join(SHORTCUTS)} (default: {DEFAULT_TASK}); "
        "with --conf_path, any task; overrides the YAML",
    )
    add(
        "--conf_path",
        metavar="YAML",
        help="a YAML of your own, or a shipped one by its name, e.g. shadow.yml",
    )
    add(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings laid over the YAML, e.g. seed=1 data.max_len=2",
    )
    add("--device", help="auto, cpu, cuda or cuda:N; overrides the YAML")
    add("--dry_run", action="store_true", help="print the plan and what is missing, and stop")
    add("--list", action=_ListYamls, nargs=0, help="list the YAMLs that ship with Penumbra, and stop")
    add("--version", action="version", version=f"penumbra {__version__}")
    return parser


def program() -> list[str]:
    """Return the words that started the program, for messages and run.json."""
    return ["penumbra"] if Path(sys.argv[0]).stem == "penumbra" else ["python", "test.py"]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; exit for --help, --list, --version and wrong arguments."""
    return build_parser().parse_intermixed_args(arguments)


def expand(options: argparse.Namespace) -> argparse.Namespace:
    """Return the options with images, mask, task and output folder spelled as YAML and settings.

    Raises ConfigError for an image that is not there, for a task that needs a YAML or a mask, and for results
    that would be mixed with the images.
    """
    named = options.conf_path is not None
    settings = [f"task={_quoted(options.task)}"] if options.task and named else []
    conf = options.conf_path
    if options.images:
        _check_images(options.images)
        settings.append(f"data.gt_path={_quoted(options.images)}")
        if not named:
            shortcut = _find_shortcut(options.task or DEFAULT_TASK, options.mask)
            conf = str(confs() / shortcut.conf)
            settings += _default_settings(shortcut, options.mask, options.out, options.images)
    if options.mask:
        settings.append(f"data.mask_path={_quoted(options.mask)}")
    if options.out and named:
        settings.append(f"paths.log={_quoted(options.out)}")
    return argparse.Namespace(**{**vars(options), "conf_path": conf, "set": [*settings, *options.set]})


def _find_shortcut(task: str, mask: str | None) -> Shortcut:
    """Return what a task stands for without a YAML."""
    shortcut = SHORTCUTS.get(task)
    if shortcut is None:
        raise ConfigError(
            f"--task {task} needs a YAML, named by --conf_path; without one: {' or '.join(SHORTCUTS)}"
        )
    if shortcut.needs_mask and not mask:
        raise ConfigError(
            f"--task {task} needs --mask: an image that is black where to {task}, white elsewhere"
        )
    return shortcut


def _default_settings(
    shortcut: Shortcut, mask: str | None, out: str | None, images: Sequence[str]
) -> list[str]:
    """Return the settings of images that are named without a YAML."""
    results = Path(out or shortcut.out)
    _check_out(results, images)
    folders = {f"paths.{shortcut.folder}": results, "paths.log": results / "log"}
    moved = [f"{key}={_quoted(str(folder))}" for key, folder in folders.items()]
    return [*shortcut.settings, *moved, *([] if mask else ["data.mask_path=auto"])]


def _check_images(images: Sequence[str]) -> None:
    for image in images:
        if image.endswith((".yml", ".yaml")):
            raise ConfigError(f"{image} is a YAML; run it by --conf_path {image}")
        if "://" not in image and not Path(image).exists():
            raise ConfigError(f"{image} does not exist; name an image or a folder of images")


def _check_out(out: Path, images: Sequence[str]) -> None:
    """Refuse a folder in which results would overwrite images, or would be read as images by the next run."""
    folder = out.resolve()
    for image in images:
        path = Path(image).resolve()
        if path.is_dir() and path in (folder, *folder.parents):
            raise ConfigError(
                f"the results in {out} would lie among the images of {image}; name another folder by -o"
            )
        if path == folder / f"{path.stem}.png":
            raise ConfigError(f"the result would overwrite {image}; name another folder by -o")


def _quoted(value: str | Sequence[str]) -> str:
    """Write text, or a list of texts, as YAML; one item of a list stands for itself."""
    if not isinstance(value, str):
        items = [_quoted(item) for item in value]
        return items[0] if len(items) == 1 else f"[{', '.join(items)}]"
    plain = (char if " " <= char <= "~" and char not in '"\\' else f"\\U{ord(char):08x}" for char in value)
    return f'"{"".join(plain)}"'
