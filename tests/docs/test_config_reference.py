"""docs/reference/config.md is what scripts/config_reference.py generates, and every key has a docstring."""

from __future__ import annotations

import runpy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pytest

from guided_diffusion.config import schema
from guided_diffusion.config.builder import Count
from guided_diffusion.samplers import SAMPLERS
from guided_diffusion.scheduler import JumpSchedule
from guided_diffusion.training.config import TrainConfig
from tests.helpers.project import ROOT

SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "config_reference.py"))
GROUPS = [schema.Config, *schema.FLAT.values(), *schema.NESTED.values(), JumpSchedule, TrainConfig]


@pytest.mark.parametrize("cls", [*GROUPS, *SAMPLERS.values()], ids=lambda cls: cls.__name__)
def test_every_field_has_a_docstring(cls: type) -> None:
    docs = SCRIPT["field_docstrings"](cls)
    assert {field.name for field in fields(cls)} <= set(docs)  # type: ignore[arg-type]
    assert all(doc.endswith((".", ")")) for doc in docs.values())


def test_committed_page_is_up_to_date() -> None:
    assert SCRIPT["PAGE"].read_text(encoding="utf-8") == SCRIPT["render_page"]()


def test_check_tells_an_outdated_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "config.md"
    assert SCRIPT["main"](["--check", "--out", str(page)]) == 1
    assert SCRIPT["main"](["--out", str(page)]) == 0
    assert SCRIPT["main"](["--check", "--out", str(page)]) == 0
    page.write_text(page.read_text() + "edited\n")
    assert SCRIPT["main"](["--check", "--out", str(page)]) == 1
    assert "is outdated; run: python scripts/config_reference.py" in capsys.readouterr().err


@dataclass(frozen=True)
class Documented:
    needed: Count
    """Number of things."""
    kind: Literal["auto", True] = "auto"
    """Either | or."""
    bare: int = 0


def test_table_shows_values_default_and_docstring() -> None:
    rows = SCRIPT["render_table"](Documented, ["needed", "kind"], "group.").splitlines()
    assert rows[2:] == [
        "| `group.needed` | integer of at least 1 | *required* | Number of things. |",
        "| `group.kind` | `auto`, `true` | `auto` | Either \\| or. |",
    ]


def test_table_refuses_a_field_without_docstring() -> None:
    with pytest.raises(ValueError, match=r"Documented\.bare has no docstring"):
        SCRIPT["render_table"](Documented, ["bare"])
