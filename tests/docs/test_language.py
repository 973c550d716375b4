"""Language: identifiers and docstrings that readers stumble over do not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.helpers.project import ROOT

FOLDERS = ("guided_diffusion", "scripts", "examples", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

BANNED_NAMES = {"told", "some", "each", "most", "least", "own", "one", "both", "made", "found", "kept"}
"""Whole identifiers that say nothing of what they hold."""
BANNED_WORDS = {
    *("told", "quickened", "quicken", "dealt", "dealer", "shaded", "lifted", "lifter", "painter", "walk"),
    *("picture", "pictures", "evaluations", "membrane", "sketch", "sketched", "whole_truth", "free_path"),
}
"""Words that no identifier may contain: this project's own language before it took the field's terms."""
BANNED_BEGINNINGS = ("Of ", "As ", "What ")
"""Beginnings of docstrings that make no sense without the name in front of them."""


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of all that a module names: variables, arguments, attributes, functions, classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def words(name: str) -> list[str]:
    """Split an identifier: snake_case and CamelCase."""
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")
    return [part for part in parts if part]


def is_banned(name: str) -> bool:
    return name.lower() in BANNED_NAMES or bool(BANNED_WORDS & {*words(name)})


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, of fields too."""
    for node in ast.walk(tree):
        text = (
            node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else None
        )
        if isinstance(text, str):
            yield node.lineno, text.strip()


def faults(source: str) -> list[str]:
    tree = ast.parse(source)
    names = [f"{line}: {name}" for line, name in identifiers(tree) if is_banned(name)]
    texts = [f"{line}: {text[:40]}" for line, text in docstrings(tree) if text.startswith(BANNED_BEGINNINGS)]
    return names + texts


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ("told = 1", 1),
        ("def f(each): pass", 1),
        ("for some, rest in pairs: pass", 1),
        ("self.most = 2", 1),
        ("class ShadedCopy: pass", 1),
        ("class A:\n    x: int = 0\n    'As the sampler says.'", 1),
        ("def f():\n    'What it does.'", 1),
        ("def f():\n    'Read an image.'\n    stone = f.told + other.found", 0),
        ("one_line = each_image = 1", 0),
    ],
)
def test_scan_tells_faults(source: str, number: int) -> None:
    assert len(faults(source)) == number


def test_code_speaks_plainly() -> None:
    lines = {path.relative_to(ROOT).as_posix(): faults(path.read_text(encoding="utf-8")) for path in FILES}
    assert {file: texts for file, texts in lines.items() if texts} == {}
