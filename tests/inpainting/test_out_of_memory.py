"""Batches that memory does not hold are halved, and the images come out the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from guided_diffusion.engine import Engine, load_config
from guided_diffusion.output.results import Result
from tests.helpers.memory import Memory
from tests.helpers.project import NFE, Project, image
from tests.helpers.results import inpainted, results

CPU_ERROR = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"


def run(conf: Path, *overrides: str) -> dict[str, Result]:
    return results(conf, "precision=fp32", *overrides)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU_ERROR), MemoryError()]
)
def test_batch_is_halved_when_memory_runs_out(
    project: Project, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    conf = project(count=7)
    plain = run(conf, "data.batch_size=1")
    memory = Memory(2, error)
    memory.install(monkeypatch)
    halved = run(conf, "data.batch_size=6")
    # Six fail and three; then two at once to the end, also of those that came later.
    assert memory.seen == [6, 3, *[2] * 3 * NFE, *[1] * NFE]
    for name, result in plain.items():
        assert inpainted(result) is not None and (other := inpainted(halved[name])) is not None
        assert np.array_equal(inpainted(result), other)


def test_auto_batch_is_halved_until_memory_holds_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = project(count=9)
    plain = run(conf, "data.batch_size=1")
    memory = Memory(3, torch.OutOfMemoryError("CUDA out of memory"))
    memory.install(monkeypatch)
    grown = run(conf, "data.batch_size=auto")
    assert memory.seen == [8, 4, *[2] * 4 * NFE, *[1] * NFE]
    assert list(grown) == list(plain)
    for name, result in plain.items():
        assert inpainted(result) is not None and (other := inpainted(grown[name])) is not None
        assert np.array_equal(inpainted(result), other)


def test_auto_batch_on_a_cpu(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(99, torch.OutOfMemoryError("CUDA out of memory"))
    memory.install(monkeypatch)
    assert len(run(project(count=25))) == 25, "auto is the default"
    assert memory.seen[::NFE] == [8, 8, 8, 1]


def test_auto_batch_is_limited_by_expected_memory(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that promises memory it lacks kills whoever uses it: there is nothing to catch."""
    conf = project(count=7)
    memory = Memory(99, torch.OutOfMemoryError("CUDA out of memory"))
    memory.install(monkeypatch)
    activation_bytes = Engine(load_config(conf, ["precision=fp32"])).models.activation_bytes((16, 16, 3))
    for views, batches in ((0, [1] * 7), (3, [3, 3, 1]), (99, [7])):
        free = 2 * views * activation_bytes + 1
        monkeypatch.setattr("guided_diffusion.runtime.memory.available_memory", lambda free=free: free)
        memory.seen.clear()
        run(conf)
        assert memory.seen[::NFE] == batches
        memory.seen.clear()
        run(conf, "data.batch_size=4")
        assert memory.seen[::NFE] == [4, 3], "a number is the user's word"


def test_image_too_large_for_memory_fails_alone(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(0, torch.OutOfMemoryError("CUDA out of memory"))
    memory.install(monkeypatch)
    result = run(project(count=1))["p0"]
    assert inpainted(result) is None
    assert result.error == "out of memory on cpu: the model sees 16x16 pixels; shrink the image"
    assert result.gt is not None and np.array_equal(result.gt, image(0))


def test_other_errors_of_the_network_are_raised(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(0, RuntimeError("shapes do not fit"))
    memory.install(monkeypatch)
    events: Any = Engine(load_config(project(count=1)))()
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(events)
