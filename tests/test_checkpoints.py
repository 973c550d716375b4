"""Reading weights: every format, every way a file can be wrong, and what is said about it."""

from __future__ import annotations

import itertools
import os
import pickle
import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from guided_diffusion import checkpoints
from guided_diffusion.build import build_classifier, build_network
from guided_diffusion.checkpoints import digest, infer_config, load, read_state
from guided_diffusion.config.schema import ClassifierConfig, ModelConfig
from guided_diffusion.errors import CheckpointError
from tests.helpers import stored

SMALL = replace(stored.TINY, image_size=16, attention_resolutions="8")


def weights(config: ModelConfig = SMALL) -> dict[str, Tensor]:
    return stored.formula_state(build_network(config).state_dict())


def on_meta(config: ModelConfig) -> Any:
    with torch.device("meta"):
        return build_network(config)


def save(folder: Path, form: str, state: Any) -> str:
    path = folder / f"weights{'.safetensors' if form == 'safetensors' else '.pt'}"
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    return str(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("half", [False, True])
def test_read_state_reads_every_format(tmp_path: Path, form: str, half: bool) -> None:
    state = weights()
    path = save(tmp_path, form, {k: v.half() for k, v in state.items()} if half else state)
    network = load(on_meta(SMALL), path, 16)
    own = network.state_dict()
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    for key, value in state.items():
        expected = value.half().float() if half else value
        assert own[key].dtype == torch.float32 and torch.equal(own[key], expected)


def test_load_returns_a_working_network(tmp_path: Path) -> None:
    path = save(tmp_path, "zip", weights())
    reference = build_network(SMALL).eval()
    reference.load_state_dict(weights())
    x, t = stored.formula_image(1, 16), torch.tensor([500])
    with torch.no_grad():
        assert torch.equal(load(on_meta(SMALL), path, 16)(x, t), reference(x, t))


def complaint(path: str | Path) -> str:
    with pytest.raises(CheckpointError) as error:
        read_state(str(path))
    message = str(error.value)
    assert "\n" not in message and len(message) < 400 and str(path) in message
    return message


def test_load_of_a_missing_file_names_file_and_remedy(tmp_path: Path) -> None:
    assert "is not there; mend model_path or classifier_path" in complaint(tmp_path / "none.pt")
    assert "bash download.sh faces" in complaint(tmp_path / "celeba256_250000.pt")
    assert "is not there" in complaint(tmp_path)  # a folder
    with pytest.raises(CheckpointError, match="is not there"):
        digest(str(tmp_path / "none.pt"))


@pytest.mark.parametrize("name", checkpoints.PUBLISHED)
def test_missing_published_file_of_an_installed_package_names_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert f"bash download.sh {checkpoints.PUBLISHED[name]}" in complaint(tmp_path / name)
    monkeypatch.setattr(checkpoints, "DOWNLOAD", tmp_path / "download.sh")
    message = complaint(tmp_path / name)
    assert "download.sh" not in message and "fetch it from https://github.com/" in message
    assert message.endswith(", or mend model_path or classifier_path in the YAML")


def test_load_without_permission_names_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"anything")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(CheckpointError, match=r"weights\.pt cannot be read \(.*Permission denied\)"):
        digest(str(path))


def test_load_from_an_unreachable_address_names_the_reason() -> None:
    assert "cannot be reached" in complaint("foo://account/weights.pt")


def test_safetensors_without_the_extra_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "safetensors", None)  # as if it were not installed
    assert "needs the extra: pip install 'penumbra[safetensors]'" in complaint(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html><html>Quota exceeded</html>", b"PK\x03\x04junk", b"\x80\x02"]
)
def test_read_state_refuses_other_files_in_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert "cannot be read (" in complaint(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_read_state_refuses_damaged_files_in_one_line(tmp_path: Path, form: str) -> None:
    whole = Path(save(tmp_path, form, {"a": torch.ones(8, 8), "b": torch.zeros(3)}))
    data = whole.read_bytes()
    for cut in range(0, len(data) - 1, max(len(data) // 40, 1)):
        whole.write_bytes(data[:cut])
        assert "cannot be read (" in complaint(whole)
    refused = 0
    for place in range(0, min(len(data), 600), 7):
        whole.write_bytes(data[:place] + b"\xa5" + data[place + 1 :])
        try:
            read_state(str(whole))  # a flipped number in a tensor cannot be noticed
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 5


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.target,)

    def __init__(self, target: str) -> None:
        self.target = target


def test_read_state_runs_no_code(tmp_path: Path) -> None:
    path, target = tmp_path / "bomb.pt", tmp_path / "exploded"
    for form in (True, False):
        torch.save({"a": Bomb(str(target))}, path, _use_new_zipfile_serialization=form)
        assert "it is no weights file, or one that holds code" in complaint(path)
    path.write_bytes(pickle.dumps(Bomb(str(target)), protocol=2))
    assert "holds code" in complaint(path)
    assert not target.exists()


def test_read_state_refuses_a_training_state(tmp_path: Path) -> None:
    path = save(tmp_path, "zip", {"model": weights(), "step": 3, "optimizer": {}})
    assert "is not a plain state dict of tensors (it holds model, step, optimizer)" in complaint(path)
    assert "(it holds list)" in complaint(save(tmp_path, "zip", [torch.ones(2)]))


def mismatch(config: ModelConfig, state: dict[str, Tensor], folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load(on_meta(config), save(folder, "zip", state), config.image_size)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_load_mismatch_names_keys_and_the_config_that_fits(tmp_path: Path) -> None:
    state = weights(replace(SMALL, channel_mult="1,2,2", attention_resolutions="8,4", resblock_updown=False))
    message = mismatch(SMALL, state, tmp_path)
    assert "missing keys (" in message and "unexpected keys (" in message
    assert "other shapes (" in message and " instead of " in message
    assert "channel_mult: '1,2,2'" in message
    assert "attention_resolutions: '8,4'" in message
    assert "resblock_updown: False" in message
    assert "num_channels: 32" in message


def test_load_mismatch_shows_shapes(tmp_path: Path) -> None:
    message = mismatch(replace(SMALL, learn_sigma=False), weights(), tmp_path)
    assert "2 other shapes (out.2.weight (6, 32, 3, 3) instead of (3, 32, 3, 3), out.2.bias (6,)" in message
    assert "keys (" not in message.split(";")[0]
    assert "learn_sigma: True" in message


def test_load_suspects_a_classifier(tmp_path: Path) -> None:
    config = ClassifierConfig(classifier_width=64, classifier_depth=1, classifier_attention_resolutions="16")
    with torch.device("meta"):
        state = build_classifier(config, 64).state_dict()
    message = mismatch(SMALL, {k: torch.zeros(v.shape) for k, v in state.items()}, tmp_path)
    assert message.endswith("is it another kind of network, or a classifier?")
    assert infer_config({"a": torch.ones(1)}, 64) == {}


def test_load_reports_an_incomplete_state(tmp_path: Path) -> None:
    """Every single parameter may be the one that is missing, and the message must come all the same."""
    state = weights()
    for key in state:
        assert isinstance(infer_config({k: v for k, v in state.items() if k != key}, 16), dict)
    rest = {k: v for k, v in state.items() if k != "middle_block.1.norm.bias"}
    assert "1 missing keys (middle_block.1.norm.bias); these config keys would fit it" in mismatch(
        SMALL, rest, tmp_path
    )


FAMILIES = [
    {"num_res_blocks": blocks, "channel_mult": mult, "attention_resolutions": attention, **flags}
    for blocks, mult, attention in itertools.product(
        (1, 3), ("1,2", "1,1,2,3", "2,1,1"), ("16,8", "32,4", "8", "")
    )
    for flags in (
        {"resblock_updown": True, "use_scale_shift_norm": True},
        {"resblock_updown": False, "use_scale_shift_norm": False, "class_cond": True},
        {"resblock_updown": True, "use_scale_shift_norm": False, "learn_sigma": False},
    )
]
PUBLISHED = [
    {
        "image_size": 256,
        "num_channels": 256,
        "num_head_channels": 64,
        "channel_mult": "",
        "num_res_blocks": 2,
    },
    {"image_size": 512, "num_channels": 256, "num_head_channels": 64, "channel_mult": "", "class_cond": True},
    {"image_size": 64, "num_channels": 192, "num_head_channels": 64, "channel_mult": "", "num_res_blocks": 3},
]


@pytest.mark.parametrize("values", [*FAMILIES, *PUBLISHED], ids=lambda v: "-".join(map(str, v.values())))
def test_infer_config_rebuilds_the_network(values: dict[str, Any]) -> None:
    config = replace(stored.TINY, **values)
    state = on_meta(config).state_dict()
    inferred = infer_config(state, config.image_size)
    assert set(inferred) <= {f.name for f in fields(ModelConfig)}
    rebuilt = replace(config, **inferred)
    assert stored.fingerprint(on_meta(rebuilt).state_dict()) == stored.fingerprint(state)
    assert rebuilt.channel_mults == config.channel_mults
    wanted = {d for d in config.attention_downsamples if d < 2 ** len(config.channel_mults)}
    assert set(rebuilt.attention_downsamples) == wanted
    for key in ("num_channels", "num_res_blocks", "use_scale_shift_norm", "class_cond", "learn_sigma"):
        assert inferred[key] == getattr(config, key)
    assert inferred["resblock_updown"] == config.resblock_updown


def test_digest_depends_on_the_bytes_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"abc")
    assert (
        digest(str(path)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )  # FIPS 180-2


def test_shipped_path_prefers_the_given_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path / "weights")
    given = tmp_path / "a.pt"
    assert checkpoints.shipped_path(str(given)) == str(given), "nothing of that name ships"
    checkpoints.shipped("a.pt").parent.mkdir()
    checkpoints.shipped("a.pt").touch()
    assert checkpoints.shipped_path(str(given)) == str(checkpoints.shipped("a.pt"))
    given.touch()
    assert checkpoints.shipped_path(str(given)) == str(given)


def test_shipped_network_is_loaded_once_and_says_what_is_missing(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "a.pt")
    shipped = checkpoints.ShippedNetwork(
        tmp_path / "a.pt", partial(torch.nn.Linear, 2, 2), 64, "the test", "or write it"
    )
    network = shipped.network()
    assert network is shipped.network() and not network.training
    assert shipped.digest() == checkpoints.digest(str(tmp_path / "a.pt"))
    missing = replace(shipped, path=Path("none.pt"))
    for use in (missing.require, missing.digest, missing.network):
        with pytest.raises(
            CheckpointError,
            match="^the test needs none.pt, which is not there; reinstall penumbra, or write it$",
        ):
            use()
