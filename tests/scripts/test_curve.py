"""scripts/curve.py on the tiny model: its table, its stored results, its errors."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from guided_diffusion import judge
from guided_diffusion.engine import Engine, load_config
from guided_diffusion.scheduler import count_nfe
from tests.helpers.project import ROOT, Project

SCRIPT = str(ROOT / "scripts" / "curve.py")
FOUR, FIVE = "four method=ddim timestep_respacing='4'", "five method=ddim timestep_respacing='5' n=2"


@dataclass(frozen=True)
class Outcome:
    code: int
    rows: dict[str, list[str]]
    err: str


@pytest.fixture
def curve(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Return a function of further arguments that inpaints three cases of 16 pixels and writes to ./out."""
    conf = project(count=1)

    def call(*words: str) -> Outcome:
        fixed = ["--conf_path", str(conf), "--n", "3", "--batch", "2", "--out", "out"]
        monkeypatch.setattr(sys, "argv", [SCRIPT, *fixed, *words])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(SCRIPT, run_name="__main__")
        captured = capsys.readouterr()
        rows = [line.strip("| ").split(" | ") for line in captured.out.splitlines() if line.startswith("| ")]
        return Outcome(int(caught.value.code or 0), {row[0]: row[1:] for row in rows}, captured.err)

    return call


def test_curve_gives_every_setting_a_row_and_its_difference_to_the_first(
    curve: Callable[..., Outcome],
) -> None:
    again = FOUR.replace("four", "again")
    outcome = curve("--only", "membrane", "--try", FOUR, FIVE, again)
    assert outcome.code == 0, outcome.err
    assert list(outcome.rows) == ["setting", "---", "five", "four", "again", "harmonic"]
    assert {name: row[:2] for name, row in outcome.rows.items() if name[0] in "fah"} == {
        **{"five": ["2", "5"], "four": ["3", "4"], "again": ["3", "4"], "harmonic": ["3", "0"]}
    }
    assert outcome.rows["again"][3:] == outcome.rows["four"][3:]  # the same keys, the same images
    assert outcome.rows["harmonic"][-2:] == ["-", "-"]
    lab = {name: float(row[3].split()[0]) for name, row in outcome.rows.items() if row[0] == "3"}
    minus = float(outcome.rows["four"][-2].split()[0])
    assert minus == pytest.approx(lab["four"] - lab["harmonic"], abs=0.11)
    assert Path("out/curve.md").read_text().count("\n") == len(outcome.rows)
    assert Path("out/curve.png").stat().st_size > 10_000


def test_curve_reuses_stored_images_until_a_key_or_seed_changes(
    curve: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    inpainted: list[tuple[str, int]] = []
    run_method = judge.run_method

    def counted(method: str, cases: list[object], engine: object) -> object:
        inpainted.append((method, len(cases)))
        return run_method(method, cases, engine)  # type: ignore[arg-type]

    monkeypatch.setattr(judge, "run_method", counted)
    words = ("--only", "--try", FOUR)
    first = curve(*words)
    assert inpainted == [("four", 2), ("four", 1)]
    assert curve(*words).rows == first.rows
    assert len(inpainted) == 2
    with np.load("out/four.npz") as file:
        partial = {key: file[key] for key in file if not key.endswith("0002")}
    np.savez("out/four.npz", **partial)  # as after a stop
    assert curve(*words).rows["four"][3:] == first.rows["four"][3:]
    assert inpainted[2:] == [("four", 1)]
    curve(*words, "--seed", "1001")
    curve("--only", "--try", FOUR.replace("'4'", "'3'"))
    assert inpainted[3:] == 2 * [("four", 2), ("four", 1)]


@pytest.mark.parametrize(("preset", "cost"), [("paper", 2410), ("fast", None), ("draft", None)])
def test_setting_preset_matches_its_yaml(preset: str, cost: int | None, tmp_path: Path) -> None:
    setting = runpy.run_path(SCRIPT)["Setting"](preset, (f"preset={preset}",))
    conf = tmp_path / "conf.yml"
    conf.write_text(f"include: [{ROOT}/confs/shadow.yml, {ROOT}/confs/presets/{preset}.yml]\n")
    times = Engine(load_config(ROOT / "confs/shadow.yml", setting.keys)).visited_times
    assert times == Engine(load_config(conf)).visited_times
    assert cost is None or cost == count_nfe(times)[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--only", "papers"), "--only 'papers' is unknown; choose among paper"),
        (("--only", "--try", FOUR, FOUR), "two settings share a name"),
        (("--only", "--try", "few n=0"), "setting few: n=0 is no number of cases"),
        (("--only", "--try", "odd timestep=4"), "timestep"),
        (("--only", "--try", "odd preset=quick"), "quick.yml"),
        (("--only", "--try", ""), "--try '' has no name"),
        (("--only",), "no setting"),
        (("--seed", "7"), "belong to training"),
        (("--n", "0"), "need at least 1"),
    ],
)
def test_curve_explains_mistakes_in_a_line(
    words: tuple[str, ...], message: str, curve: Callable[..., Outcome]
) -> None:
    outcome = curve(*words)
    assert outcome.code == 2
    assert message in outcome.err.splitlines()[-1]
