"""Arguments of `penumbra`: images, task, mask and output folder; shipped YAMLs; help, list and version."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import penumbra
from guided_diffusion import __version__
from guided_diffusion.config import shipped
from guided_diffusion.engine import Engine, load_config
from guided_diffusion.errors import ConfigError
from guided_diffusion.images import inputs
from guided_diffusion.runners import arguments
from guided_diffusion.runners.arguments import expand, parse
from tests.helpers.project import MODEL, ROOT, SCHEDULE, Cli, image, keep_mask
from tests.helpers.results import folders

STRANGE = ["it's.png", 'a "b" \\c.png', "Schätten 影 😀.png", "- x: [y].png", "tab\there.png"]


def engine_of(*words: str) -> Engine:
    """The engine that the command line stands for."""
    options = expand(parse(words))
    return Engine(load_config(options.conf_path, options.set))


def refusal(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        expand(parse(words))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Current folder with p0.png, p1.png, mask.png and trips/{a,b}/p0.png."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("p0.png", "p1.png", "trips/a/p0.png", "trips/b/p0.png")):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(i)).save(name)
    Image.fromarray(keep_mask()).save("mask.png")
    return tmp_path


@pytest.fixture
def tiny(folder: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the shipped YAMLs by tiny ones of the same names; return `folder`."""
    common = {"model_path": str(tiny_weights), **MODEL, **SCHEDULE}
    samples = {"gt_path": "./data/samples/shadow", "mask_path": "./data/samples/shadow_mask"}
    confs = folder / "shipped"
    confs.mkdir()
    for name, shortcut in arguments.SHORTCUTS.items():
        content = {"name": name, "task": name, "data": samples, **common}
        (confs / shortcut.conf).write_text(f"# Tiny {name}. More text.\n{yaml.safe_dump(content)}")
    monkeypatch.setattr(shipped, "confs", lambda: confs)
    monkeypatch.setattr(arguments, "confs", lambda: confs)
    return folder


def test_image_alone_removes_shadow_with_mask_found(folder: Path) -> None:
    config = engine_of("p0.png").config
    assert config.data.gt_path == "p0.png" and config.data.mask_path == inputs.AUTO
    assert config.outputs == ("shadow_free",)
    assert folders(config)["shadow_frees"] == "shadow_free" and config.log_dir == "shadow_free/log"
    assert folders(config)["gts"] == "shadow_free/log/gt"


def test_image_alone_gives_no_warning(folder: Path) -> None:
    assert engine_of("p0.png").warnings == []
    assert engine_of("p0.png", "--task", "inpaint", "--mask", "mask.png").warnings == []


def test_set_comes_after_what_images_stand_for(folder: Path) -> None:
    config = engine_of("p0.png", "--set", "data.mask_path=mask.png", "seed=7").config
    assert (config.data.mask_path, config.seed) == ("mask.png", 7)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["p0.png"], ["p0"]),
        (["p0.png", "p1.png"], ["p0", "p1"]),
        (["trips"], ["a/p0", "b/p0"]),
        (["p1.png", "trips/a"], ["p0", "p1"]),
        (["trips/a/p0.png", "trips/b"], ["a/p0", "b/p0"]),
        (["p0.png", "-o", "out", "trips/a/p0.png"], ["p0", "trips/a/p0"]),
        (["p0.png", "p0.png", "./p0.png"], ["p0"]),
    ],
)
def test_names_of_several_images(folder: Path, words: list[str], names: list[str]) -> None:
    pairs = engine_of(*words).pairs()
    assert [pair.name for pair in pairs] == names
    assert all(Path(str(pair.gt)).is_file() for pair in pairs)


def test_file_names_reach_the_config_whatever_they_hold(folder: Path) -> None:
    for i, name in enumerate(STRANGE):
        Image.fromarray(image(i)).save(name)
        assert engine_of("p1.png", *STRANGE[: i + 1]).config.data.gt_path == ("p1.png", *STRANGE[: i + 1])
        assert folders(engine_of(f"./{name}", "-o", name[:-4]).config)["shadow_frees"] == name[:-4]


def test_mask_folder_may_hold_masks_of_other_images(folder: Path) -> None:
    Path("masks").mkdir()
    for name in ("p0", "p1", "p2"):
        Image.fromarray(keep_mask()).save(f"masks/{name}.png")
    pairs = engine_of("p0.png", "p1.png", "--mask", "masks").pairs()
    assert [pair.mask for pair in pairs] == ["masks/p0.png", "masks/p1.png"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["none.png"], "none.png does not exist; name an image or a folder of images"),
        (["my.yml"], "my.yml is a YAML; run it by --conf_path my.yml"),
        (["p0.png", "-o", "."], "would overwrite p0.png; name another folder by -o"),
        (["."], "the results in shadow_free would lie among the images of ."),
        (["trips", "-o", "trips"], "the results in trips would lie among the images of trips"),
        (["p0.png", "--task", "inpaint"], "--task inpaint needs --mask"),
        (
            ["p0.png", "--task", "negative"],
            "--task negative needs a YAML, named by --conf_path; without one: remove_shadow or inpaint",
        ),
    ],
)
def test_mistakes_are_one_line_with_the_remedy(folder: Path, words: list[str], reason: str) -> None:
    assert reason in refusal(*words)


def test_conf_path_with_images_keeps_the_yaml_and_replaces_its_images(folder: Path) -> None:
    text = f"name: mine\nmodel_path: scenes64.pt\ninclude: {ROOT}/confs/models/scenes64.yml\nseed: 5\n"
    Path("mine.yml").write_text(text)
    words = "p0.png", "--conf_path", "mine.yml", "--task", "inpaint", "--mask", "mask.png", "-o", "out"
    config = engine_of(*words).config
    assert (config.seed, config.data.gt_path, config.data.mask_path) == (5, "p0.png", "mask.png")
    assert config.log_dir == "out" and folders(config)["srs"] == "out/inpainted"


def test_inpaint_writes_result_and_log(tiny: Path, cli: Cli) -> None:
    outcome = cli("p0.png", "p1.png", "--mask", "mask.png", "--task", "inpaint", "-o", "out")
    assert (outcome.code, outcome.err) == (0, "")
    written = {path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file()}
    folders = ("log/gt", "log/gt_masked", "log/gt_keep_mask")
    beside = {f"{folder}/{name}.png" for folder in folders for name in ("p0", "p1")}
    assert written == {"p0.png", "p1.png", "log/run.json", "log/run.log", "log/overview.png", *beside}
    result = np.array(Image.open("out/p1.png"))
    assert np.array_equal(result[keep_mask()], image(1)[keep_mask()])
    assert (result[~keep_mask()] != image(1)[~keep_mask()]).any()


@pytest.mark.usefixtures("negative")
def test_remove_shadow_writes_result_and_log(tiny: Path, cli: Cli) -> None:
    outcome = cli("trips/a", "--mask", "mask.png", "-o", "out")
    assert (outcome.code, outcome.err) == (0, "")
    assert Path("out/p0.png").is_file() and Path("out/log/shadow_matte/p0.png").is_file()
    assert not list(Path("out").rglob("inpainted"))
    again = cli("trips/a", "--mask", "mask.png", "-o", "out")
    assert "finished before" in again.out


def test_help_has_examples_and_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "penumbra photo.jpg" in text and "exit status:" in text
    assert max(map(len, text.splitlines())) <= 110


def test_examples_of_the_help_parse(folder: Path) -> None:
    lines = re.findall(r"^  penumbra ((?:\S+ )*\S+)", arguments.EXAMPLES, flags=re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        if "--list" not in line:
            parse(line.split())


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"penumbra {__version__}\n"


def test_list_shows_every_shipped_yaml_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(["--list"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    confs = ROOT / "confs"
    assert sorted(line.split()[0] for line in lines) == sorted(
        path.relative_to(confs).as_posix() for path in confs.rglob("*.yml")
    )
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)


@pytest.mark.parametrize("name", ["shadow.yml", "shadow", "confs/shadow.yml", "models/scenes64.yml"])
def test_shipped_yaml_is_found_by_name(folder: Path, name: str) -> None:
    yaml_path = shipped.find_yaml(name)
    assert yaml_path.is_file() and yaml_path.is_relative_to(ROOT / "confs")


def test_own_yaml_comes_before_a_shipped_one_of_its_name(folder: Path) -> None:
    Path("shadow.yml").write_text("name: mine\nmodel_path: scenes64.pt\n")
    assert load_config("shadow.yml").name == "mine"
    Path("shadow.yml").unlink()
    assert load_config("shadow.yml").name == "shadow"


def test_own_yaml_may_include_shipped_ones(folder: Path) -> None:
    Path("mine.yml").write_text("include: [models/scenes64.yml, presets/draft.yml]\nname: mine\n")
    config = load_config("mine.yml")
    assert config.model.image_size == 64 and config.process.timestep_respacing == "25"


def test_old_path_of_the_shipped_weights_still_loads(folder: Path) -> None:
    for path in ("./data/pretrained/scenes64.pt", "scenes64.pt"):
        engine = engine_of("p0.png", "--set", f"model_path={path}")
        assert engine.missing_files() == []
        assert engine.run_fingerprint == engine_of("p0.png").run_fingerprint
    assert engine_of("p0.png", "--set", "model_path=none.pt").missing_files() == ["none.pt"]


def launch(*words: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run the launcher with `path` in front of the checkout."""
    program = (
        f"import sys; sys.path[:0] = [{str(path)!r}, {str(ROOT)!r}]; import penumbra as p; sys.exit(p.main())"
    )
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(command, cwd=path, capture_output=True, text=True, timeout=120)


def test_launcher_answers_without_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch was loaded')\n")
    done = launch("--version", path=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"penumbra {__version__}\n", "")


@pytest.mark.parametrize("flag", ["--version", "--list", "--help"])
def test_checkout_answers_without_torch(tmp_path: Path, flag: str) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch was loaded')\n")
    command = [sys.executable, str(ROOT / "test.py"), flag]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout


def test_launcher_names_a_foreign_package_in_one_line(tmp_path: Path) -> None:
    foreign = tmp_path / "guided_diffusion"
    foreign.mkdir()
    (foreign / "__init__.py").write_text('"""Codebase for "Diffusion Models Beat GANS"."""\n')
    done = launch("--version", path=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: the package guided_diffusion in {foreign} is not Penumbra's")


def test_launcher_notices_an_overwritten_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unet.py").write_text("of another package")
    record = tmp_path / "penumbra-0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: penumbra\nVersion: 0\n")
    (record / "RECORD").write_text("unet.py,sha256=x,18\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert penumbra.find_foreign_file() is None
    (record / "RECORD").write_text("unet.py,sha256=x,19\n")
    assert penumbra.find_foreign_file() == str(tmp_path / "unet.py")
