"""Tests of runtime/memory.py."""

import subprocess
import sys

import pytest
import torch

from guided_diffusion.runtime import memory


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
def test_is_out_of_memory_recognises_torch_cuda_cudnn_onednn(error: Exception) -> None:
    assert memory.is_out_of_memory(error)


@pytest.mark.parametrize(
    "words",
    [
        "could not create a primitive descriptor for a convolution forward propagation primitive",
        "CUDA error: an illegal memory access was encountered",
        "CUDNN_STATUS_EXECUTION_FAILED",
        "shapes do not fit",
    ],
)
def test_is_out_of_memory_ignores_other_errors(words: str) -> None:
    assert not memory.is_out_of_memory(RuntimeError(words))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_available_memory_is_divided_among_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.Path, "read_text", lambda _path: "MemTotal: 9 kB\nMemAvailable:  4096 kB\n")
    assert memory.available_memory() == 4096 * 1024
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory.available_memory() == 1024 * 1024


def test_available_memory_is_unlimited_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_path: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(memory.Path, "read_text", missing)
    assert memory.available_memory() == sys.maxsize


PROGRAM = """
import resource, sys
import torch
from guided_diffusion.runtime import memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert memory.tune_malloc()
generator = torch.Generator().manual_seed(0)
x = torch.randn(1, 9, 1024, 1024, generator=generator)  # 36 MB: malloc itself keeps up to 32
for again in range(4):
    if again == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    y = ((x + 1).square() * 2 - x).relu().sum(1).exp()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, float(y.double().sum()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_tune_malloc_saves_page_faults_and_changes_no_number() -> None:
    def run(word: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True
        )
        faults, total = done.stdout.split()
        return int(faults), total

    plain, tuned = run("leave"), run("keep")
    assert plain[1] == tuned[1]
    assert tuned[0] < 100 < plain[0], "page faults"


def test_tune_malloc_is_off_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENUMBRA_MALLOC", "0")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _name: pytest.fail("the C library was touched"))
    assert not memory.tune_malloc()
