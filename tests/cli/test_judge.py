"""The judge on a tiny model: its files, its acceptance checks, its errors."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion import judge
from guided_diffusion.errors import ConfigError
from guided_diffusion.evaluation import feature_network
from guided_diffusion.evaluation.cases import procedural_cases
from guided_diffusion.evaluation.prior_report import COLUMNS
from guided_diffusion.images.formats import read_image
from tests.helpers.project import Project, image

STEPS = 12


def run(conf: Path, *arguments: str) -> int:
    fixed = ["--n", "3", "--steps", str(STEPS), "--out", "t.md", "--sheet", "s.png", "--csv", "t.csv"]
    return judge.main(["--conf_path", str(conf), *fixed, *arguments])


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_judge_gives_every_method_a_row_an_image_and_scores(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ["nearest", "harmonic", "repaint-1", "repaint-2", "ddpm", "ddim", "ddnm"]
    assert run(project(), "--batch", "2", "--methods", ",".join(methods)) == 0
    text = Path("t.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    rows = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == [*methods, "ground truth"]
    assert {len(row) for row in rows} == {len(COLUMNS) + 4}
    nfe = {row[0]: row[-2] for row in rows[2:]}
    assert (nfe["nearest"], nfe["ddim"]) == ("0", str(STEPS))
    assert nfe["repaint-2"] == str(STEPS + 10)
    assert rows[-1][1] == "0.0 [0.0, 0.0]"  # the ground truth matches itself
    assert rows[0][-3] == "scene-feature KID x1000" and rows[-1][-3] == "0.00 [0.00, 0.00]"
    assert all(float(row[-3].split()[0]) != 0 for row in rows[2:-1])
    with open("t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * (len(methods) + 1)
    lab = [float(row["lab"]) for row in rows if row["method"] == "harmonic"]
    assert cells(text.split("| harmonic |")[1])[0].startswith(f"{np.mean(lab):.1f} ")
    assert read_image("s.png").shape[1] > 5 * 2 * 16  # masked, nearest, harmonic, repaint-1, ground truth
    assert text.count("ring mismatch of repaint-2 lower than") == 3


def test_run_method_keeps_known_bytes_whatever_the_batch(project: Project) -> None:
    conf = project()
    cases = procedural_cases(3, 16, "thick", 1000)
    images = []
    for batch in ("1", "3"):
        options = judge.parse(
            ["--conf_path", str(conf), "--steps", "4", "--methods", "ddim", "--batch", batch]
        )
        inpainted = judge.run_method("ddim", cases, judge.open_engines(options)["ddim"]).images
        assert all(
            np.array_equal(x[p.keep], p.ground_truth[p.keep]) for x, p in zip(inpainted, cases, strict=True)
        )
        assert all(
            (x[~p.keep] != p.ground_truth[~p.keep]).any() for x, p in zip(inpainted, cases, strict=True)
        )
        images.append(np.stack(inpainted).astype(int))
    assert np.abs(images[0] - images[1]).max() <= 1


def test_open_engines_inpaints_whatever_task_the_yaml_names(project: Project) -> None:
    conf = project(task="remove_shadow", relight={"prior": "diffusion"})
    options = judge.parse(["--conf_path", str(conf), "--steps", "4", "--methods", "ddim"])
    engine = judge.open_engines(options)["ddim"]
    assert engine is not None and engine.nfe == 4


def test_judge_reads_photographs_and_several_masks(project: Project) -> None:
    Path("free").mkdir()
    for i in range(2):
        Image.fromarray(image(i, 24, 40)).save(f"free/{i}-1.png")
    given = ["--images", "free", "--masks", "thick,nn2", "--methods", "membrane,ddim"]  # an old spelling
    assert run(project(), *given) == 0
    text = Path("t.md").read_text()
    assert "3 windows of the photographs in free, 16x16, seed 1000." in text
    assert text.index("## Masks `thick`") < text.index("## Masks `nn2`")
    assert text.count("| ground truth |") == 2
    assert text.count("| harmonic |") == 2 and "membrane" not in text
    assert text.count("two random halves of the ground truth: too few scenes.") == 2
    with open("t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["scene"] for row in rows[:3]] == ["0", "1", "0"]
    assert {row["mask"] for row in rows} == {"thick", "nn2"}


def test_judge_warns_if_the_weights_were_not_trained_for_td_paint(project: Project) -> None:
    assert run(project(), "--methods", "td_paint") == 0
    text = Path("t.md").read_text()
    assert cells(next(line for line in text.splitlines() if "| td_paint |" in line))[-2] == str(STEPS)
    assert "td_paint: these weights were not trained for it" in text
    assert run(project(), "--methods", "td_paint", "--set", "per_pixel_time=true") == 0
    assert "not trained" not in Path("t.md").read_text()


@pytest.mark.parametrize("method", ["repaint", "repaint-0", "ddim-3", "telea", ""])
def test_judge_names_an_unknown_method(
    method: str, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(project(), "--methods", method) == 2
    assert f"method {method!r} is unknown" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        judge.method_overrides(method, 10)


def test_judge_explains_wrong_settings_in_a_line(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(project(), "--steps", "8", "--methods", "repaint-2") == 2
    assert "jump_length 10 leaves no room" in capsys.readouterr().err
    assert run(project(), "--images", "gone", "--methods", "nearest") == 2
    assert "--images: gone does not exist" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        gone = replace(feature_network.CLASSIFIER, path=Path("none.pt"))
        patch.setattr(feature_network, "CLASSIFIER", gone)
        assert run(project(), "--methods", "nearest") == 2
    assert "error: the scene-feature KID needs none.pt, which is not there" in capsys.readouterr().err
    assert run(project(), "--set", "model_path=gone.pt", "--methods", "ddim") == 2
    assert "gone.pt" in capsys.readouterr().err
    for wrong in (["--seed", "0"], ["--n", "0"], ["--batch", "0"], ["--masks", "thick,round"]):
        with pytest.raises(SystemExit):
            run(project(), *wrong)
    errors = capsys.readouterr().err
    assert "belong to training" in errors and "--masks 'round' is unknown" in errors


def test_judge_writes_below_log_by_default() -> None:
    options = judge.parse(["--conf_path", "conf.yml"])
    assert (options.out, options.sheet, options.csv) == ("log/judge/table.md", "log/judge/sheet.png", None)
