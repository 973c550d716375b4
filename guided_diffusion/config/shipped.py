"""The YAMLs that ship with Penumbra: `confs/` of a checkout, `guided_diffusion/confs/` of a wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def confs() -> Path:
    """Return the folder of the shipped YAMLs."""
    installed = PACKAGE / "confs"
    return installed if installed.is_dir() else PACKAGE.parent / "confs"


def find_yaml(path: str | Path) -> Path:
    """Return the YAML that `path` means: that file, or else the shipped one of that name.

    Names are relative to `confs/`, which may stand in front; `.yml` may be left out. A path that means no
    file is returned as it is.
    """
    path = Path(path)
    if path.is_file() or path.is_absolute():
        return path
    name = Path(*path.parts[1:]) if path.parts[:1] == ("confs",) else path
    choices = (confs() / name, confs() / f"{name}.yml")
    return next((choice for choice in choices if choice.is_file()), path)


def list_yamls() -> dict[str, str]:
    """Return name -> first comment line of every shipped YAML, those of the top folder first."""
    folder = confs()
    paths = sorted(folder.rglob("*.yml"), key=lambda path: (len(path.relative_to(folder).parts), path))
    return {path.relative_to(folder).as_posix(): _summary(path) for path in paths}


def _summary(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").partition(". ")[0].strip() if first.startswith("#") else ""
