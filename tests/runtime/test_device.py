"""Tests of runtime/device.py."""

from collections.abc import Iterator

import pytest
import torch

from guided_diffusion.runtime import device as device_module
from guided_diffusion.runtime.device import (
    batch_size,
    choose_precision,
    has_bf16,
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
    before = cudnn.allow_tf32, matmul.allow_tf32
    yield
    cudnn.allow_tf32, matmul.allow_tf32 = before


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
