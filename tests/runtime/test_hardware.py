"""hardware: the arithmetic of each device, and memory that stays with the process."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from guided_diffusion.runtime import hardware
from guided_diffusion.runtime.hardware import choose_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)],
)
def test_bf16_on_the_cpu_needs_its_instructions(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], native: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert hardware.has_bf16(CPU) is native


@pytest.mark.parametrize(
    ("device", "native", "wanted", "chosen"),
    [
        (CPU, True, "auto", "bf16"),
        (CPU, False, "auto", "fp32"),
        (CPU, False, "bf16", "bf16"),  # who asks for it gets it, slow as it may be
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
def test_each_device_has_its_precision(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, native: bool, wanted: str, chosen: str
) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda _device: native)
    assert choose_precision(wanted, device) == chosen  # type: ignore[arg-type]


@pytest.fixture
def products() -> Iterator[None]:
    """The settings of float32 products are put back afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    yield
    cudnn.allow_tf32, matmul.allow_tf32 = before


@pytest.mark.parametrize(("precision", "told"), [("tf32", "tf32"), ("fp32", "ieee"), ("bf16", "ieee")])
def test_float32_is_exact_on_a_gpu_unless_tf32_is_asked_for(
    products: None, precision: str, told: str
) -> None:
    hardware.round_products(precision)
    for place in (torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul):
        assert place.fp32_precision == told


def test_whoever_asks_torch_how_products_are_rounded_gets_an_answer(products: None) -> None:
    """Also by the older of its two ways, as torch.compile does."""
    for precision in ("fp32", "tf32", "bf16"):
        hardware.round_products(precision)
        rounded = precision == "tf32"
        assert torch.backends.cudnn.allow_tf32 is rounded
        assert torch.backends.cuda.matmul.allow_tf32 is rounded
        assert torch.get_float32_matmul_precision() == ("high" if rounded else "highest")


@pytest.mark.parametrize(
    ("wanted", "device", "side", "most"),
    [
        ("auto", CPU, 64, 8),
        ("auto", CPU, 16, 8),
        ("auto", CPU, 128, 2),
        ("auto", CPU, 256, 1),  # hours to an image, and no quicker together
        ("auto", GPU, 16, 256),
        ("auto", GPU, 64, 256),
        ("auto", GPU, 256, 16),
        ("auto", GPU, 2048, 1),
        (5, GPU, 256, 5),
    ],
)
def test_auto_is_what_pays_on_the_device(wanted: int, device: torch.device, side: int, most: int) -> None:
    assert hardware.batch_size(wanted, device, side) == most


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8388608 bytes."),
        RuntimeError("could not create a primitive"),  # oneDNN's, seen with a limit on the address space
        RuntimeError("could not create a memory object"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
    ids=lambda error: str(error)[:40] or "MemoryError",
)
def test_memory_that_is_out_is_known_by_all_its_names(error: Exception) -> None:
    assert hardware.is_out_of_memory(error)


@pytest.mark.parametrize(
    "words",
    [
        "could not create a primitive descriptor for a convolution forward propagation primitive",
        "CUDA error: an illegal memory access was encountered",
        "CUDNN_STATUS_EXECUTION_FAILED",
        "shapes do not fit",
    ],
)
def test_other_errors_are_not_taken_for_it(words: str) -> None:
    assert not hardware.is_out_of_memory(RuntimeError(words))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_ranks_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.Path, "read_text", lambda _path: "MemTotal: 9 kB\nMemAvailable:  4096 kB\n")
    assert hardware.available_memory() == 4096 * 1024
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert hardware.available_memory() == 1024 * 1024


def test_where_nobody_tells_of_memory_it_has_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_path: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(hardware.Path, "read_text", missing)
    assert hardware.available_memory() == sys.maxsize


PROGRAM = """
import resource, sys
import torch
from guided_diffusion.runtime import hardware
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert hardware.keep_memory()
generator = torch.Generator().manual_seed(0)
x = torch.randn(1, 9, 1024, 1024, generator=generator)  # 36 MB: malloc comes to keep up to 32 by itself
for again in range(4):
    if again == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    y = ((x + 1).square() * 2 - x).relu().sum(1).exp()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, float(y.double().sum()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_is_kept_and_the_numbers_stay() -> None:
    def run(word: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True
        )
        faults, total = done.stdout.split()
        return int(faults), total

    plain, kept = run("leave"), run("keep")
    assert plain[1] == kept[1]
    assert kept[0] < 100 < plain[0], "pages that the system had to bring anew"


@pytest.mark.parametrize(
    ("ranks", "told", "threads"),
    [
        (None, None, None),
        (None, "1", None),
        ("1", None, None),
        ("1", "1", None),  # of a single rank torchrun sets nothing: the user did
        ("2", "1", 4),  # torchrun's own
        ("2", None, 4),
        ("2", "3", None),
        ("16", "1", 1),
    ],
)
def test_ranks_share_the_cores_unless_the_user_says_how_many(
    monkeypatch: pytest.MonkeyPatch, ranks: str | None, told: str | None, threads: int | None
) -> None:
    for name, value in {"LOCAL_WORLD_SIZE": ranks, "OMP_NUM_THREADS": told}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _process: set(range(8)))
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    hardware.share_cores()
    assert asked == ([] if threads is None else [threads])
