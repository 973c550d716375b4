"""Batches that memory does not hold are halved, and the images come out the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guided_diffusion.engine import Engine, load_config
from guided_diffusion.output.results import Result
from guided_diffusion.unet import UNetModel
from tests.conftest import NFE, image
from tests.helpers.results import inpainted

Project = Callable[..., Path]
CPU_ERROR = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"


class Memory:
    """In place of the network's forward: fails for more images than `room`, remembers how many came."""

    def __init__(self, room: int, error: Exception) -> None:
        self.room, self.error, self.seen = room, error, list[int]()
        self.forward: Callable[..., Tensor] = UNetModel.forward

    def __call__(self, network: UNetModel, x: Tensor, t: Tensor) -> Tensor:
        if x.device.type == "meta":  # shapes alone are asked for
            return self.forward(network, x, t)
        self.seen.append(len(x))
        if len(x) > self.room:
            raise self.error
        return self.forward(network, x, t)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(UNetModel, "forward", lambda network, *args: self(network, *args))


def fill(conf: Path, *overrides: str) -> dict[str, Result]:
    return {result.name: result for result in Engine(load_config(conf, ["precision=fp32", *overrides]))()}


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU_ERROR), MemoryError()]
)
def test_a_batch_too_large_goes_on_in_halves(
    project: Project, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    conf = project(count=7)
    plain = fill(conf, "data.batch_size=1")
    memory = Memory(2, error)
    memory.install(monkeypatch)
    halved = fill(conf, "data.batch_size=6")
    # Six fail and three; then two at once to the end, also of those that came later.
    assert memory.seen == [6, 3, *[2] * 3 * NFE, *[1] * NFE]
    for name, result in plain.items():
        assert inpainted(result) is not None and (other := inpainted(halved[name])) is not None
        assert np.array_equal(inpainted(result), other)


def test_auto_takes_all_that_pays_and_halves_it_until_memory_holds_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = project(count=9)
    plain = fill(conf, "data.batch_size=1")
    memory = Memory(3, torch.OutOfMemoryError("CUDA out of memory"))
    memory.install(monkeypatch)
    grown = fill(conf, "data.batch_size=auto")
    assert memory.seen == [8, 4, *[2] * 4 * NFE, *[1] * NFE]
    assert list(grown) == list(plain)
    for name, result in plain.items():
        assert inpainted(result) is not None and (other := inpainted(grown[name])) is not None
        assert np.array_equal(inpainted(result), other)


def test_auto_ends_where_a_processor_gains_no_more(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(99, torch.OutOfMemoryError("CUDA out of memory"))
    memory.install(monkeypatch)
    assert len(fill(project(count=25))) == 25, "auto is the default"
    assert memory.seen[::NFE] == [8, 8, 8, 1]


def test_auto_takes_no_more_than_a_system_s_memory_is_expected_to_hold(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that promises memory it lacks kills whoever uses it: there is nothing to catch."""
    conf = project(count=7)
    memory = Memory(99, torch.OutOfMemoryError("CUDA out of memory"))
    memory.install(monkeypatch)
    of_one = Engine(load_config(conf, ["precision=fp32"])).networks.features((16, 16, 3))
    for views, batches in ((0, [1] * 7), (3, [3, 3, 1]), (99, [7])):
        free = 2 * views * of_one + 1
        monkeypatch.setattr("guided_diffusion.runtime.memory.available_memory", lambda free=free: free)
        memory.seen.clear()
        fill(conf)
        assert memory.seen[::NFE] == batches
        memory.seen.clear()
        fill(conf, "data.batch_size=4")
        assert memory.seen[::NFE] == [4, 3], "a number is the user's word"


def test_one_picture_too_large_fails_alone(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(0, torch.OutOfMemoryError("CUDA out of memory"))
    memory.install(monkeypatch)
    result = fill(project(count=1))["p0"]
    assert inpainted(result) is None
    assert result.error == "out of memory on cpu: the model sees 16x16 pixels; shrink the image"
    assert result.gt is not None and np.array_equal(result.gt, image(0))


def test_other_errors_of_the_network_are_not_taken_for_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(0, RuntimeError("shapes do not fit"))
    memory.install(monkeypatch)
    events: Any = Engine(load_config(project(count=1)))()
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(events)
