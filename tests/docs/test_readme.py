"""README and docs: commands run with their own flags, Python examples run, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from guided_diffusion.samplers import SAMPLERS
from tests.helpers import documented
from tests.helpers.documented import ROOT, Command

COMMANDS, MENTIONS = documented.commands(), documented.mentions()
RUN = [command for command in COMMANDS if command.reason is None]
PARSED = [command for command in COMMANDS if command.reason is not None]
PYTHON_PAGES = [page for page in documented.pages() if documented.blocks(page, "python")]


def of_readme_else_slow(command: Command) -> object:
    """The README's commands run with the fast tests, those of docs/ with the slow ones."""
    marks = [] if command.page == "README.md" else [pytest.mark.slow]
    return pytest.param(command, marks=marks, id=str(command))


@pytest.fixture(scope="module")
def project_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    documented.copy_project(folder)
    return folder


@pytest.mark.parametrize("command", map(of_readme_else_slow, RUN))
def test_command_runs_as_documented(command: Command, project_copy: Path) -> None:
    done = documented.run(command, project_copy)
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("command", map(of_readme_else_slow, [*PARSED, *MENTIONS]))
def test_flags_of_command_that_does_not_run_here_parse(command: Command, project_copy: Path) -> None:
    assert documented.parse(command, project_copy) == ""


def test_readme_has_commands_that_run() -> None:
    assert [command for command in RUN if command.page == "README.md"]


def test_readme_s_table_of_methods_names_every_sampler() -> None:
    table = (ROOT / "README.md").read_text("utf-8").partition("| `method` |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)) == sorted(SAMPLERS)


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.stem)
def test_python_of_page_runs(page: Path, project_copy: Path) -> None:
    """All Python blocks of a page make one program."""
    code = "\n".join(documented.blocks(page, "python"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project_copy,
        env=documented.environment(project_copy),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name in re.findall(r"\.save\(\"([^\"{}]+)\"", code):
        assert (project_copy / name).exists(), name


@pytest.mark.parametrize("page", documented.pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_linked_files_exist(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:)([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
    assert [name for name in links if not (page.parent / name).exists()] == []
    assert page.name != "README.md" or len(links) >= 6
