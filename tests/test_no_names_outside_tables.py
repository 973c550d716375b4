"""No code asks for a task, method or output by name: the tables and class variables answer instead."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
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
    ("config/model.py", "ddim"),  # the same
    ("config/legacy.py", "ddim"),  # a value of repaint's key `rule`, for the old flag use_ddim
    ("evaluation/shadow_datasets.py", "shadow_free"),  # a folder of a public dataset
    ("evaluate.py", "shadow_free"),  # the same
    ("evaluation/acceptance.py", "td_paint"),  # a row of the report, for which a target was set
    ("benchmark/settings.py", "repaint"),  # RePaint's own code, one of the engines compared
    ("shadow/remover.py", "relight"),  # a stream of random numbers; a new name would change results
}
"""File and word, where the word means something else."""
PUBLIC_API = {
    ("engine.py", "_run_image", "inpaint"),  # Engine.inpaint is this task by its name
    ("engine.py", "_build_task", "inpaint"),  # as is Engine.inpaint_arrays
    ("engine.py", "_run_image", "remove_shadow"),  # as is Engine.remove_shadow
}
"""File, function called and name, where a method of the public API chooses its own task."""
DECLARING = {"OutputSpec", "Folder", "Shortcut"}
"""Classes whose constructors declare names: rows of tables."""


@dataclass(frozen=True)
class Use:
    """A string literal that names a task, method or output, and is more than a declaration."""

    line: int
    name: str
    function: str = ""
    """Function that is called with it."""


def uses(source: str) -> Iterator[Use]:
    """Names in comparisons, membership tests, `match` cases, subscripts and arguments of calls."""
    for node in ast.walk(ast.parse(source)):
        function = ""
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Subscript) and getattr(node.value, "id", "") != "Literal":
            parts = [node.slice]
        elif isinstance(node, ast.Call):
            function = getattr(node.func, "attr", "") or getattr(node.func, "id", "")
            parts = [*node.args, *(keyword.value for keyword in node.keywords)]
        else:
            continue
        for part in parts if function not in DECLARING else ():
            items = part.elts if isinstance(part, ast.Tuple | ast.List | ast.Set) else [part]
            for item in items:
                if isinstance(item, ast.Constant) and item.value in NAMES:
                    yield Use(item.lineno, str(item.value), function)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("if method == 'repaint': pass", ["repaint"]),
        ("if 'inpaint' != task: pass", ["inpaint"]),
        ("x = method in ('ddpm', 'ddim', 'other')", ["ddpm", "ddim"]),
        ("x = 'shadow_free' in outputs", ["shadow_free"]),
        ("if method.startswith('relight'): pass", ["relight"]),
        ("match task:\n    case 'remove_shadow': pass", ["remove_shadow"]),
        ("x = result.outputs['inpainted'].image", ["inpainted"]),
        ("table['repaint'] = 1", ["repaint"]),
        ("x = engines.get('td_paint')", ["td_paint"]),
        ("x = build('inpaint', outputs=['shadow_free'])", ["inpaint", "shadow_free"]),
        ("rule: Literal['ddpm'] = 'ddpm'", []),
        ("y = {'ddpm': 1}; z = task == 'prior'; DEFAULT = 'repaint'", []),
        ("SPEC = OutputSpec('inpainted', Folder('inpainted'))", []),
    ],
)
def test_scan_finds_uses_alone(source: str, expected: list[str]) -> None:
    assert [use.name for use in uses(source)] == expected


def test_no_code_asks_for_a_task_method_or_output_by_name() -> None:
    offenders, calls = [], set()
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        for use in uses(path.read_text(encoding="utf-8")):
            call = file, use.function, use.name
            calls.add(call)
            if call not in PUBLIC_API and (file, use.name) not in OTHER_WORDS:
                offenders.append(f"{file}:{use.line}: {use.name}")
    assert offenders == []
    assert calls >= PUBLIC_API  # no exception outlives its reason


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
