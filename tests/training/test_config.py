"""The configuration of a training run: shipped YAMLs, mistakes, overrides, documentation."""

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
import yaml

from guided_diffusion.build import build_network, build_process
from guided_diffusion.config.schema import ModelConfig, ProcessConfig
from guided_diffusion.engine import load_config
from guided_diffusion.errors import ConfigError
from guided_diffusion.training.config import TASK_RULES, TrainConfig, load_train
from guided_diffusion.training.tasks import TRAINERS
from tests.helpers.training import write_yaml

ROOT = Path(__file__).resolve().parents[2]
CONFS = sorted((ROOT / "confs" / "train").glob("*.yml"))


@pytest.mark.parametrize("conf", CONFS, ids=lambda path: path.stem)
def test_load_train_reads_shipped_yamls(conf: Path) -> None:
    config = load_train(conf)
    assert config.name == conf.stem and config.folder == Path("runs", conf.stem)
    size = config.model.image_size
    with torch.device("meta"):
        out = build_network(config.model)(torch.empty(2, 3, size, size), torch.zeros(2))
    assert out.shape == (2, 6 if config.model.learn_sigma else 3, size, size)
    process, times = build_process(config.process)
    assert process.num_timesteps == config.process.diffusion_steps == len(times)


def test_scenes128_has_the_documented_size() -> None:
    config = load_train(ROOT / "confs" / "train" / "scenes128.yml")
    with torch.device("meta"):
        weights = sum(p.numel() for p in build_network(config.model).parameters())
    assert round(2 * weights / 1e6, 1) == 23.0  # MB in half precision, as the YAML says
    assert config.compact_state and 10 * weights < 7 * 2**24, "seven pieces of 16 MiB"
    assert config.frame_scales == (1, 2) and config.model.per_pixel_time


def test_istd256_has_settings_of_shadow_diffusion() -> None:
    config = load_train(ROOT / "confs" / "train" / "istd256.yml")
    model, process = config.model, config.process
    assert (model.image_size, model.num_channels, model.num_res_blocks, model.learn_sigma) == (
        256,
        128,
        2,
        True,
    )
    assert (process.diffusion_steps, process.noise_schedule) == (1000, "linear")
    assert (config.lr, config.batch_size) == (1e-4, 4)
    assert config.data_dir.endswith("train_C")


def refused(folder: Path, **keys: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_train(write_yaml(folder, **keys))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_train_config_names_mistakes(tmp_path: Path) -> None:
    assert "'microbatch'" in refused(tmp_path, micro_batch=1)
    assert "'num_channels'" in refused(tmp_path, num_chanels=1)
    assert "batch_size: 0 is not an integer of at least 1" in refused(tmp_path, batch_size=0)
    assert "lr: 'fast' is not a number" in refused(tmp_path, lr="fast")
    assert "one of 'uniform', 'loss-aware'" in refused(tmp_path, schedule_sampler="importance")
    assert "ema_rate 1" in refused(tmp_path, ema_rate=1.0)
    assert "timestep_respacing has no place" in refused(tmp_path, timestep_respacing="2")
    assert "class_cond" in refused(tmp_path, class_cond=True)
    assert "use_kl" in refused(tmp_path, use_kl=True)
    assert "image_size 4: per_pixel_time needs 8" in refused(
        tmp_path, image_size=4, attention_resolutions="", per_pixel_time=True
    )
    assert "scales '1,half' is not a list" in refused(tmp_path, scales="1,half")
    assert "scales '0' is not a list" in refused(tmp_path, scales=0)
    assert "use random_crop" in refused(tmp_path, scales="1,2", data_dir="images")
    assert "loss_factors '8,x' is not a list" in refused(tmp_path, loss_factors="8,x")
    assert "loss_factors '8,5': 5 does not divide image_size 16" in refused(tmp_path, loss_factors="8,5")
    assert "one of 'none', 'min_snr', 'p2'" in refused(tmp_path, loss_weighting="snr")
    assert "loss_weighting 'p2'" in refused(tmp_path, loss_weighting="p2", predict_xstart=True)
    message = refused(tmp_path, lr_anneal_steps=99, iterations=100)
    assert "lr_anneal_steps 99" in message and "iterations 100" in message


def test_train_config_needs_image_size_of_its_network() -> None:
    with pytest.raises(ConfigError, match="image_size 64 is not that of the network, 128"):
        TrainConfig("run", image_size=64, model=ModelConfig(image_size=128))
    assert (
        TrainConfig("run", task="detect", image_size=64, model=ModelConfig(image_size=128)).image_size == 64
    )


def test_every_task_has_rules_and_a_trainer() -> None:
    assert list(get_args(get_type_hints(TrainConfig)["task"])) == list(TASK_RULES) == list(TRAINERS)


@pytest.mark.parametrize("name", ["", "state", "a/b"])
def test_name_must_be_a_file_name(tmp_path: Path, name: str) -> None:
    """runs/<name>/<name>.pt must be a file, and another than the state."""
    assert f"name {name!r} cannot name" in refused(tmp_path, name=name)


def test_load_train_applies_and_names_overrides(tmp_path: Path) -> None:
    conf = write_yaml(tmp_path)
    config = load_train(conf, ["lr=1e-5", "channel_mult=[1, 2]", "num_head_channels=-1"])
    assert (config.lr, config.model.channel_mult, config.model.num_head_channels) == (1e-5, "1,2", -1)
    assert load_train(conf, ["scales=[1, 2, 4]"]).frame_scales == (1, 2, 4)
    with pytest.raises(ConfigError, match="unknown key 'learning' .in .* with --set"):
        load_train(conf, ["learning=1"])
    with pytest.raises(ConfigError, match="--conf_path confs/train/scenes64.yml"):
        load_train(None)


# the pages that list the keys and show them

KEYS_PAGE = ROOT / "docs" / "reference" / "config.md"
GUIDE = ROOT / "docs" / "guide" / "training.md"


def documented() -> dict[str, str]:
    """Key -> default, from the tables for training, network and process, less the named exceptions."""
    sections = {text.split("\n")[0]: text for text in KEYS_PAGE.read_text().split("\n## ")}
    training = sections["Training"]
    text = sections["Network"] + sections["Diffusion process"] + training
    defaults = dict(re.findall(r"^\| `(\w+)` \| .*? \| (.*?) \| ", text, re.MULTILINE))
    excepted = re.search(r"except (.*?)\.\n", training, re.DOTALL)
    assert excepted is not None
    return {key: defaults[key] for key in defaults.keys() - re.findall(r"`(\w+)`", excepted[1])}


def test_training_keys_are_documented_with_defaults() -> None:
    refused_keys = {"model", "process", "timestep_respacing", "class_cond", "use_kl"}
    all_fields = [f for cls in (TrainConfig, ModelConfig, ProcessConfig) for f in fields(cls)]
    documented_defaults = documented()
    assert set(documented_defaults) == {f.name for f in all_fields} - refused_keys
    for f in all_fields:
        if f.name in refused_keys or f.name in ("name", "out"):
            continue
        assert yaml.safe_load(documented_defaults[f.name].strip("`")) == f.default, f.name


def test_documented_yamls_fit_each_other(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    training, sampling = (yaml.safe_load(block) for block in blocks)
    for content, name in ((training, "train.yml"), (sampling, "sample.yml")):
        (tmp_path / name).write_text(yaml.safe_dump(content))
    trained = load_train(tmp_path / "train.yml")
    config = load_config(tmp_path / "sample.yml")
    assert config.model == trained.model
    assert config.process.noise_schedule == trained.process.noise_schedule
    assert config.model_path == f"./{trained.folder}/{trained.name}.pt"
