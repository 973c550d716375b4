"""Tests of runtime/device.py."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch

from guided_diffusion.runtime import device as device_module
from guided_diffusion.runtime.device import (
    batch_size,
    choose_precision,
    compute_settings,
    has_bf16,
    iterate_with_settings,
    matrix_rate,
    set_tf32,
    split_cores_among_ranks,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)],
)
def test_has_bf16_needs_the_instructions_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], native: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_bf16(CPU) is native


@pytest.mark.parametrize(
    ("device", "native", "wanted", "chosen"),
    [
        (CPU, True, "auto", "bf16"),
        (CPU, False, "auto", "fp32"),
        (CPU, False, "bf16", "bf16"),  # emulated, but as the user wants
        (CPU, True, "fp16", "fp32"),
        (CPU, True, "tf32", "fp32"),
        (CPU, True, "fp32", "fp32"),
        (GPU, True, "auto", "bf16"),
        (GPU, False, "auto", "fp16"),
        (GPU, True, "tf32", "tf32"),
        (GPU, True, "fp16", "fp16"),
        (GPU, True, "fp32", "fp32"),
    ],
)
def test_choose_precision_of_each_device(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, native: bool, wanted: str, chosen: str
) -> None:
    monkeypatch.setattr(device_module, "has_bf16", lambda _device: native)
    assert choose_precision(wanted, device) == chosen  # type: ignore[arg-type]


@pytest.fixture
def products() -> Iterator[None]:
    """Restore the settings of float32 products afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    mkldnn: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, cpu = (cudnn.allow_tf32, matmul.allow_tf32), mkldnn.fp32_precision
    yield
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32, matmul.allow_tf32 = before
    mkldnn.fp32_precision = cpu


@pytest.mark.parametrize(("precision", "value"), [("tf32", "tf32"), ("fp32", "ieee"), ("bf16", "ieee")])
def test_set_tf32_leaves_other_precisions_exact(products: None, precision: str, value: str) -> None:
    set_tf32(precision)
    for backend in (torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul):
        assert backend.fp32_precision == value


def test_set_tf32_can_be_read_both_ways(products: None) -> None:
    """torch.compile reads the older of the two settings."""
    for precision in ("fp32", "tf32", "bf16"):
        set_tf32(precision)
        rounded = precision == "tf32"
        assert torch.backends.cudnn.allow_tf32 is rounded
        assert torch.backends.cuda.matmul.allow_tf32 is rounded
        assert torch.get_float32_matmul_precision() == ("high" if rounded else "highest")


def settings() -> dict[str, Any]:
    """Return torch's settings of float32 products, by both ways of asking."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    newer = {f"{backend}": backend.fp32_precision for backend in (cudnn.conv, cudnn.rnn, matmul)}
    older = cudnn.allow_tf32, matmul.allow_tf32, torch.get_float32_matmul_precision()
    return {**newer, "older": older}


def is_exact() -> bool:
    return not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_compute_settings_restores_what_was_set(products: None, before: str, precision: str) -> None:
    torch.set_float32_matmul_precision(before)
    outside = settings()
    with pytest.raises(KeyError), compute_settings(CPU, precision):
        assert is_exact() is (precision == "fp32")
        with compute_settings(CPU, "tf32"):
            assert not is_exact()
        assert is_exact() is (precision == "fp32")
        raise KeyError
    assert settings() == outside


def test_compute_settings_restores_what_only_the_newer_way_has_set(products: None) -> None:
    conv, rnn = torch.backends.cudnn.conv, torch.backends.cudnn.rnn  # type: ignore[attr-defined]
    rnn.fp32_precision = "tf32"  # whatever earlier tests have left
    conv.fp32_precision = "ieee"
    with pytest.raises(RuntimeError):
        _ = torch.backends.cudnn.allow_tf32
    with compute_settings(CPU, "tf32"):
        assert conv.fp32_precision == "tf32"
    assert conv.fp32_precision == "ieee" and torch.backends.cudnn.rnn.fp32_precision == "tf32"


def test_compute_settings_makes_the_gpu_current(products: None, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[object] = []

    @contextmanager
    def current(device: torch.device) -> Iterator[None]:
        entered.append(device)
        yield
        entered.append("restored")

    monkeypatch.setattr(torch.cuda, "device", current)
    with compute_settings(GPU, "bf16"):
        assert entered == [GPU]
    assert entered == [GPU, "restored"]


def test_iterate_with_settings_leaves_the_consumer_alone(products: None) -> None:
    """Two generators of different precision take turns."""
    outside = is_exact()
    seen: list[tuple[str, bool]] = []

    def work(precision: str) -> Generator[int, None, None]:
        try:
            for number in range(3):
                seen.append((precision, is_exact()))
                yield number
        finally:
            seen.append((f"{precision} closed", is_exact()))

    fp32, tf32 = (
        iterate_with_settings(partial(compute_settings, CPU, precision), work(precision))
        for precision in ("fp32", "tf32")
    )
    for number in range(3):
        assert next(fp32) == number and is_exact() is outside
        if number < 2:
            assert next(tf32) == number and is_exact() is outside
    assert next(fp32, None) is None
    tf32.close()
    assert is_exact() is outside
    exact = [("fp32", True), ("tf32", False)]
    assert seen == [*exact, *exact, ("fp32", True), ("fp32 closed", True), ("tf32 closed", False)]


def test_iterate_with_settings_restores_after_an_error(products: None) -> None:
    outside = is_exact()

    def fail() -> Generator[int, None, None]:
        yield 1
        raise OSError("full")

    items = iterate_with_settings(partial(compute_settings, CPU, "fp32"), fail())
    assert next(items) == 1
    with pytest.raises(OSError, match="full"):
        next(items)
    assert is_exact() is outside


@pytest.mark.parametrize(
    ("wanted", "device", "side", "images"),
    [
        ("auto", CPU, 64, 8),
        ("auto", CPU, 16, 8),
        ("auto", CPU, 128, 2),
        ("auto", CPU, 256, 1),  # an image takes hours; together they are no faster
        ("auto", GPU, 16, 256),
        ("auto", GPU, 64, 256),
        ("auto", GPU, 256, 16),
        ("auto", GPU, 2048, 1),
        (5, GPU, 256, 5),
    ],
)
def test_batch_size_auto_depends_on_device_and_side(
    wanted: int, device: torch.device, side: int, images: int
) -> None:
    assert batch_size(wanted, device, side) == images


@pytest.mark.parametrize(
    ("ranks", "threads_set", "threads"),
    [
        (None, None, None),
        (None, "1", None),
        ("1", None, None),
        ("1", "1", None),  # torchrun sets nothing for a single rank: the user did
        ("2", "1", 4),  # set by torchrun
        ("2", None, 4),
        ("2", "3", None),
        ("16", "1", 1),
    ],
)
def test_split_cores_among_ranks_respects_the_user(
    monkeypatch: pytest.MonkeyPatch, ranks: str | None, threads_set: str | None, threads: int | None
) -> None:
    for name, value in {"LOCAL_WORLD_SIZE": ranks, "OMP_NUM_THREADS": threads_set}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(device_module.os, "sched_getaffinity", lambda _process: set(range(8)))
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    split_cores_among_ranks()
    assert asked == ([] if threads is None else [threads])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_matrix_rate_multiplies_in_the_given_precision(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()
    mm = torch.mm

    def spy(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        seen.add(a.dtype)
        return mm(a[:64, :64], b[:64, :64])

    monkeypatch.setattr(device_module.torch, "mm", spy)
    before = torch.random.get_rng_state()
    assert matrix_rate(torch.device("cpu"), precision, 0.0) > 0
    assert seen == {{"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator is not touched"


def test_matrix_rate_takes_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 3.0, 3.0, 4.0, 4.0, 6.0])  # products of 3, 1 and 2 seconds
    clock = iter([0.0, 2.0, 3.0, 9.0])
    monkeypatch.setattr(device_module.torch, "mm", lambda *_, **__: None)
    monkeypatch.setattr(device_module.time, "monotonic", lambda: next(clock))
    assert matrix_rate(torch.device("cpu"), "fp32", 5.0, lambda: next(ticks)) == 2 * 1024**3 / 1.0
