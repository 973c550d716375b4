"""Build step of the wheel, named in pyproject.toml: copy `confs/` into it as `guided_diffusion/confs/`.

A checkout and an editable installation read `confs/` itself; guided_diffusion/config/shipped.py finds either.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py as _build_py

CONFS = Path("confs")


class build_py(_build_py):
    """Build the package, with the YAMLs inside."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "guided_diffusion", "confs")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(CONFS, target)

    def get_source_files(self) -> list[str]:
        """Return what a source distribution must hold to build the same wheel."""
        extra = [*CONFS.rglob("*.yml"), Path("scripts/build_wheel.py")]
        return [*super().get_source_files(), *(path.as_posix() for path in extra)]
