"""No code asks for a task, method or output by name: the tables and class variables answer instead."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from guided_diffusion.engine import TASKS
from guided_diffusion.samplers import SAMPLERS
from guided_diffusion.tasks import output_names
from tests.helpers.project import ROOT

PACKAGE = ROOT / "guided_diffusion"
NAMES = {*TASKS, *SAMPLERS, *output_names(TASKS), "relight"}
OTHER_WORDS = {
    ("samplers/repaint.py", "ddpm"),  # a value of the sampler's own key `rule`
    ("respace.py", "ddim"),  # guided-diffusion's spelling of evenly spaced steps, ddim25
    ("evaluation/shadow_datasets.py", "shadow_free"),  # a folder of a public dataset
}
"""File and word, where the word means something else."""


def comparisons(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each comparison, membership test and `match` case with a string literal."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("startswith", "endswith"):
            parts = list(node.args)
        else:
            continue
        for part in parts:
            items = part.elts if isinstance(part, ast.Tuple | ast.List | ast.Set) else [part]
            for item in items:
                if isinstance(item, ast.Constant) and item.value in NAMES:
                    yield node.lineno if hasattr(node, "lineno") else item.lineno, str(item.value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("if method == 'repaint': pass", ["repaint"]),
        ("if 'inpaint' != task: pass", ["inpaint"]),
        ("x = method in ('ddpm', 'ddim', 'other')", ["ddpm", "ddim"]),
        ("x = 'shadow_free' in outputs", ["shadow_free"]),
        ("if method.startswith('relight'): pass", ["relight"]),
        ("match task:\n    case 'remove_shadow': pass", ["remove_shadow"]),
        ("x = table['repaint']; y = {'ddpm': 1}; z = task == 'prior'", []),
    ],
)
def test_scan_finds_comparisons_alone(source: str, expected: list[str]) -> None:
    assert [name for _, name in comparisons(source)] == expected


def test_no_task_method_or_output_is_compared_by_name() -> None:
    offenders = []
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        for line, name in comparisons(path.read_text(encoding="utf-8")):
            if (file, name) not in OTHER_WORDS:
                offenders.append(f"{file}:{line}: {name}")
    assert offenders == []


@pytest.mark.parametrize("module", ["engine.py", "cli.py", "models.py", "build.py", "runners", "output"])
def test_shared_parts_name_no_method(module: str) -> None:
    """Stricter: no string literal at all that is a method's name."""
    path = PACKAGE / module
    files: list[Path] = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    literals = {
        f"{file.name}:{node.lineno}: {node.value}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in {*SAMPLERS, "relight"}
    }
    assert literals == set()
