"""Imports: small modules stay light, a run loads no renderer, and the package exports its API."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import guided_diffusion
from guided_diffusion import engine, errors
from tests.helpers.project import ROOT, Project

LIGHT = ["guided_diffusion", "config.schema", "config.fingerprints", "runners.arguments", "errors"]


def run_python(program: str, *arguments: str | Path) -> str:
    """Run a program in a fresh interpreter; returns what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_light_modules_load_no_torch() -> None:
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name if name == 'guided_diffusion' else f'guided_diffusion.{name}')\n"
        "    print(name, [heavy for heavy in ('torch', 'numpy', 'PIL') if heavy in sys.modules])\n"
    )
    lines = run_python(program, *LIGHT).splitlines()
    assert lines == [f"{name} []" for name in LIGHT]
    assert run_python(program, "scheduler") in ("scheduler []\n", "scheduler ['numpy']\n")


def test_inpainting_an_image_loads_no_renderer(project: Project) -> None:
    conf = project(count=1, precision="fp32", method="ddim", timestep_respacing="2")
    program = (
        "import sys\n"
        "from guided_diffusion import cli\n"
        "assert cli.main(sys.argv[1:]) == 0\n"
        "parts = ('scenes', 'training', 'evaluation', 'benchmark')\n"
        "print([m for m in sys.modules if m.startswith(tuple(f'guided_diffusion.{p}' for p in parts))])\n"
    )
    assert run_python(program, "--conf_path", conf).splitlines()[-1] == "[]"
    assert Path("log/run/inpainted/p0.png").is_file()


def test_package_exports_the_api() -> None:
    assert guided_diffusion.Engine is engine.Engine and guided_diffusion.load_config is engine.load_config
    classes = {name: cls for name, cls in vars(errors).items() if inspect.isclass(cls)}
    assert set(guided_diffusion.__all__) == {"Engine", "load_config", *classes}
    for name, cls in classes.items():
        assert getattr(guided_diffusion, name) is cls and issubclass(cls, guided_diffusion.PenumbraError)


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Motor'"):
        guided_diffusion.Motor  # noqa: B018


def test_exceptions_for_users_are_in_one_tree() -> None:
    """Other modules define none; the benchmark's own never leaves it."""
    program = (
        "import importlib, inspect, pkgutil, guided_diffusion\n"
        "for info in pkgutil.walk_packages(guided_diffusion.__path__, 'guided_diffusion.'):\n"
        "    if '__main__' in info.name: continue\n"
        "    for name, cls in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):\n"
        "        if issubclass(cls, Exception) and cls.__module__ == info.name: print(info.name, name)\n"
    )
    defined = [line.split() for line in run_python(program).splitlines()]
    assert {name for module, name in defined if not module.startswith("guided_diffusion.benchmark")} == {
        name for name, cls in vars(errors).items() if inspect.isclass(cls)
    }
