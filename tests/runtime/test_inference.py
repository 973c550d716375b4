"""Tests of runtime/inference.py: networks as they run on their device."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from guided_diffusion.build import build_network
from guided_diffusion.checkpoints import load
from guided_diffusion.runtime.inference import convolution_inputs, place_network
from tests.helpers import stored


@pytest.mark.parametrize(("precision", "body"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_place_network_computes_in_its_precision(precision: str, body: torch.dtype) -> None:
    torch.manual_seed(0)
    network = build_network(stored.TINY).eval()
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # some are initialised to zero
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        exact = network(x, t)
        placed = place_network(network, torch.device("cpu"), precision)
        out = placed(x, t)
    assert placed is network, "in place: no second copy"
    assert {p.dtype for p in network.input_blocks.parameters()} == {body}
    assert {p.dtype for part in (network.time_embed, network.out) for p in part.parameters()} == {
        torch.float32
    }
    assert out.dtype == torch.float32
    assert (out - exact).norm() < (1e-5 if body == torch.float32 else 0.05) * exact.norm()
    convolution = network.output_blocks[0][0].in_layers[2].weight
    assert convolution.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "changes", [{}, {"resblock_updown": False}, {"channel_mult": "1,1,2", "num_res_blocks": 2}]
)
def test_convolution_inputs_are_the_shapes_of_a_forward_pass(changes: dict[str, Any]) -> None:
    network, seen = build_network(replace(stored.TINY, **changes)), {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(
                lambda _layer, given, name=name: seen.update({name: list(given[0].shape)})
            )
    with torch.no_grad():
        network(torch.randn(1, 3, 16, 16), torch.tensor([7]))
    assert convolution_inputs(network, 16) == seen and len(seen) > 10


def test_prepare_for_inference_imports_no_compiler() -> None:
    """Importing one would take a second and 80 MB."""
    program = """
import sys, torch
from guided_diffusion.build import build_network
from guided_diffusion.runtime.inference import prepare_for_inference
from guided_diffusion.config.schema import ModelConfig
network = build_network(ModelConfig(image_size=16, num_channels=32, channel_mult="1,1", num_head_channels=16))
prepare_for_inference(network, torch.device("cpu"), "bf16", 16)
assert not {"sympy", "torch._dynamo", "torch._inductor"} & {*sys.modules}
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_place_network_releases_the_mapped_weights_file(tmp_path: Path) -> None:
    """Count the resident pages of the map after all its weights have been converted."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    if any(kind == "tmpfs" and tmp_path.is_relative_to(at) for _, at, kind, *_ in mounts):
        pytest.skip("the pages of a file in memory cannot be released")
    torch.manual_seed(0)
    path = tmp_path / "weights.pt"
    wide = replace(stored.TINY, num_channels=64)
    state = {key: torch.randn_like(value).half() for key, value in build_network(wide).state_dict().items()}
    torch.save(state, path)
    with torch.device("meta"):
        empty = build_network(wide)
    loaded = load(empty, str(path), wide.image_size, as_stored=True)
    assert {p.dtype for p in loaded.parameters()} == {torch.float16}
    mapped = [p.data for p in loaded.parameters()]
    assert sum(float(values.float().sum()) for values in mapped), "every page was read"
    before = resident(path)
    placed = place_network(loaded, torch.device("cpu"), "bf16")
    size = path.stat().st_size
    assert before > 0.9 * size and resident(path) < 0.3 * size
    for key, value in placed.state_dict().items():
        assert torch.equal(value.float(), state[key].to(value.dtype).float())


def resident(path: Path) -> int:
    """Return the bytes of this process's maps of a file that are in memory."""
    lines, total = iter(Path("/proc/self/smaps").read_text().splitlines()), 0
    for line in lines:
        if line.endswith(str(path)):
            total += next(1024 * int(row.split()[1]) for row in lines if row.startswith("Rss:"))
    return total
