"""The command `penumbra`: check the installation, then run guided_diffusion/cli.py.

It stands outside the package because several projects of this family install a package `guided_diffusion`.
Where such a package hides or has overwritten ours, nothing inside it could say so.
"""

from __future__ import annotations

import sys
from importlib import metadata, util
from pathlib import Path

CURE = "uninstall it, take it off PYTHONPATH, or install penumbra into a virtual environment of its own"


def main() -> int:
    """Run the command; return its exit status."""
    if problem := find_conflict():
        print(f"error: {problem}", file=sys.stderr)
        return 2
    if file := find_foreign_file():
        reason = "another package named guided_diffusion may have overwritten it"
        print(f"warning: {file} is not the file of this installation; {reason}: {CURE}", file=sys.stderr)
    from guided_diffusion.runners.arguments import parse

    parse(None)  # --help, --list, --version and mistakes are answered before torch is loaded
    from guided_diffusion.cli import main as run

    return run()


def find_conflict() -> str | None:
    """Return one line if the package that Python finds as `guided_diffusion` is not ours."""
    spec = util.find_spec("guided_diffusion")
    if spec is None:
        return "the package guided_diffusion is not there; install penumbra again"
    init = Path(spec.origin or "")
    if init.is_file() and "Penumbra" in init.read_text(encoding="utf-8", errors="replace"):
        return None
    folder = next(iter(spec.submodule_search_locations or []), init)
    return f"the package guided_diffusion in {folder} is not Penumbra's, but hides or replaces it; {CURE}"


def find_foreign_file() -> str | None:
    """Return the first installed file of ours whose size is not what pip recorded, if there is one."""
    try:
        files = metadata.distribution("penumbra").files or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        if (
            file.size is not None
            and file.suffix == ".py"
            and path.is_file()
            and path.stat().st_size != file.size
        ):
            return str(path)
    return None


if __name__ == "__main__":
    sys.exit(main())
