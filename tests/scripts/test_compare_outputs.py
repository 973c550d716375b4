"""scripts/compare_outputs.py: what counts as a difference, and a whole comparison with the present commit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts import compare_outputs

SCRIPT = Path(compare_outputs.__file__)


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path)


def test_differences_names_changed_and_missing_files(tmp_path: Path) -> None:
    for name, old, new in (("a/x.png", 1, 1), ("a/y.png", 1, 2)):
        write(tmp_path / "old" / name, old)
        write(tmp_path / "new" / name, new)
    write(tmp_path / "new/z.png", 3)
    found = list(compare_outputs.differences(tmp_path / "old", tmp_path / "new"))
    assert found == ["a/y.png: differs", "z.png: only in one of them"]


def test_command_uses_old_words_for_old_revisions(tmp_path: Path) -> None:
    case = compare_outputs.CASES["ddnm"]
    assert "task=inpaint" in case.command("x", compare_outputs.ROOT, ())
    old = case.command("x", tmp_path, ())
    assert old[-2:] == ["method=repaint", "method=ddnm"]


def test_results_leave_nothing_in_the_log_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_outputs, "ROOT", tmp_path)
    with compare_outputs.temporary_log() as results:
        write(results / "demo/x.png", 1)
        assert results.parent == tmp_path / "log"
        compare_outputs.keep_results(tmp_path / "saved", tmp_path / "gone", results)
    assert not (tmp_path / "log").exists() and (tmp_path / "saved/checkout/demo/x.png").exists()
    write(tmp_path / "log/mine/x.png", 1)
    with pytest.raises(KeyboardInterrupt), compare_outputs.temporary_log():
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["mine"]


@pytest.mark.skipif(not (compare_outputs.ROOT / ".git").exists(), reason="not a git checkout")
def test_unknown_revision_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_outputs.main(["no-such-revision"]) == 2
    assert "no-such-revision" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not (compare_outputs.ROOT / ".git").exists(), reason="not a git checkout")
def test_head_makes_the_same_images_as_this_checkout(tmp_path: Path) -> None:
    log = compare_outputs.ROOT / "log"
    before = sorted(log.iterdir()) if log.exists() else None
    few = ["data.max_len=1", "timestep_respacing=7", "relight.prior=none", "relight.refine=false"]
    options = ["--only", "demo", "api", "--log", str(tmp_path), "--set", *few]
    command = [sys.executable, str(SCRIPT), "HEAD", *options]
    done = subprocess.run(command, cwd=SCRIPT.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all equal; overview equal; resumes" in done.stdout and "2 images: all equal" in done.stdout
    assert (sorted(log.iterdir()) if log.exists() else None) == before
    for side in ("revision", "checkout"):
        assert {"demo", "api"} <= {path.name for path in (tmp_path / side).iterdir()}
