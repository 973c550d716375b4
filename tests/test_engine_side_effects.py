"""Constructing or running an Engine leaves the process's settings of torch as they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from guided_diffusion.denoiser import Denoise, Prediction
from guided_diffusion.engine import Engine, load_config
from guided_diffusion.models import Models
from guided_diffusion.output.results import Progress, Result
from guided_diffusion.runtime.device import set_tf32
from guided_diffusion.runtime.seeds import ImageSeed
from tests.helpers.project import Project, image, keep_mask
from tests.helpers.results import inpainted

PRECISIONS = ["fp32", "tf32", "bf16"]


def global_settings() -> dict[str, Any]:
    """Everything of torch that an Engine could change for others."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return {
        "matmul precision": torch.get_float32_matmul_precision(),
        "old flags": (cudnn.allow_tf32, matmul.allow_tf32),
        "products": [b.fp32_precision for b in (cudnn.conv, cudnn.rnn, matmul, torch.backends.mkldnn.matmul)],
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "defaults": (torch.get_default_dtype(), torch.get_default_device()),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "random": (torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()),  # type: ignore
    }


@pytest.fixture(params=["highest", "high"], ids=["exact", "rounded"], autouse=True)
def user_settings(request: pytest.FixtureRequest) -> Iterator[None]:
    """Settings that a program has made before it builds an Engine."""
    set_tf32("tf32" if request.param == "high" else "fp32")
    torch.set_float32_matmul_precision(request.param)
    yield
    set_tf32("fp32")
    torch.set_float32_matmul_precision("highest")


@pytest.fixture
def conf(project: Project) -> Path:
    return project(count=2, data={"gt_path": "gts", "mask_path": "masks", "batch_size": 1})


def build(conf: Path, precision: str) -> Engine:
    return Engine(load_config(conf, [f"precision={precision}", "device=cpu", "timestep_respacing='3'"]))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_construction_changes_nothing(conf: Path, precision: str) -> None:
    before = global_settings()
    engine = build(conf, precision)
    assert global_settings() == before
    engine.models.build_on_meta()
    assert engine.nfe > 0 and engine.pairs() and engine.run_fingerprint
    assert global_settings() == before


@pytest.mark.parametrize("precision", PRECISIONS)
def test_settings_are_restored_while_an_event_is_handed_out(conf: Path, precision: str) -> None:
    before, kinds = global_settings(), set()
    for event in build(conf, precision).stream():
        assert global_settings() == before
        kinds.add(type(event))
    assert kinds == {Progress, Result} and global_settings() == before


@pytest.mark.parametrize("precision", PRECISIONS)
def test_settings_are_restored_after_an_early_close(conf: Path, precision: str) -> None:
    before, stream = global_settings(), build(conf, precision).stream()
    next(stream)
    stream.close()
    assert global_settings() == before


class BrokenModels(Models):
    """Models whose network fails; remembers the settings that it saw."""

    seen: ClassVar[list[str]] = []

    def denoiser(self, images: Sequence[ImageSeed]) -> Denoise:
        def denoise(x: torch.Tensor, t: int, clean: torch.Tensor | None = None) -> Prediction:
            self.seen.append(torch.backends.cuda.matmul.fp32_precision)
            raise ZeroDivisionError("in the network")

        return denoise


def test_settings_are_restored_after_an_exception(conf: Path) -> None:
    parts = build(conf, "fp32")
    models = BrokenModels(parts.config, parts.process, parts.times, parts.device, parts.precision)
    engine, before = Engine(parts.config, models=models), global_settings()
    BrokenModels.seen.clear()
    with pytest.raises(ZeroDivisionError):
        list(engine.stream())
    assert global_settings() == before and BrokenModels.seen == ["ieee"]  # inside, the engine's own


def test_memory_interface_restores_settings_too(conf: Path) -> None:
    engine, before = build(conf, "fp32"), global_settings()
    events = engine.inpaint_arrays(["a"], [image(0)], [keep_mask()])
    next(events)
    assert global_settings() == before
    events.close()
    assert global_settings() == before


def advance(streams: list[Any]) -> list[dict[str, bytes]]:
    """Take one event of each stream in turn; the inpainted bytes of each, by name."""
    by_stream: list[dict[str, bytes]] = [{} for _ in streams]
    for events in zip_longest(*streams):
        for images, event in zip(by_stream, events, strict=True):
            if isinstance(event, Result):
                array = inpainted(event)
                assert array is not None, event.error
                images[event.name] = array.tobytes()
    return by_stream


def test_engines_of_two_precisions_in_turn_give_what_each_gives_alone(conf: Path) -> None:
    alone = [advance([build(conf, precision).stream()])[0] for precision in ("fp32", "bf16")]
    together = advance([build(conf, precision).stream() for precision in ("fp32", "bf16")])
    assert together == alone
    assert set(alone[0]) == {"p0", "p1"} and alone[0] != alone[1]
