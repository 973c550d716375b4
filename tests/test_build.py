"""From config values to networks and processes: sizes and costs against published figures."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from guided_diffusion import build
from guided_diffusion.build import (
    build_classifier,
    build_network,
    build_process,
    convolution_inputs,
    flops_per_evaluation,
    matrix_rate,
    place,
)
from guided_diffusion.checkpoints import load
from guided_diffusion.config.schema import ClassifierConfig, ModelConfig, ProcessConfig
from guided_diffusion.respace import get_named_beta_schedule
from tests.helpers import stored

FACES = ModelConfig()  # the 256x256 networks of RePaint
SHADOW = ModelConfig(
    num_channels=128, attention_resolutions="16,8", num_head_channels=-1, resblock_updown=False
)


@pytest.mark.parametrize(
    ("model", "millions"), [(FACES, 552.8), (ModelConfig(class_cond=True), 553.8), (SHADOW, 124.1)]
)
def test_parameter_counts(model: ModelConfig, millions: float) -> None:
    with torch.device("meta"):
        network = build_network(model)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(("model", "flops"), [(FACES, 2.24e12), (SHADOW, 498e9)])
def test_operations_of_one_evaluation(model: ModelConfig, flops: float) -> None:
    assert flops_per_evaluation(model, (1, 3, 256, 256)) == pytest.approx(flops, rel=0.01)


def test_operations_grow_with_the_batch_and_count_labelled_networks_too() -> None:
    model = ModelConfig(image_size=64, num_channels=32, num_head_channels=16, class_cond=True)
    one = flops_per_evaluation(model, (1, 3, 64, 64))
    assert one > 1e8
    assert flops_per_evaluation(model, (3, 3, 64, 64)) == pytest.approx(3 * one, rel=1e-3)


def test_the_flags_reach_the_network() -> None:
    plain = build_network(stored.TINY)
    assert (plain.out_channels, plain.num_classes, plain.size_multiple) == (6, None, 2)
    other = replace(
        stored.TINY,
        num_head_channels=16,
        class_cond=True,
        learn_sigma=False,
        dropout=0.25,
        use_new_attention_order=True,
        use_checkpoint=True,
    )
    network = build_network(other)
    assert (network.out_channels, network.num_classes) == (3, 1000)
    spec = network.spec
    assert (spec.dropout, spec.use_new_attention_order, spec.use_checkpoint) == (0.25, True, True)
    assert spec.attention_downsamples == (2,)
    drops = [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)]
    assert drops and set(drops) == {0.25}


def test_the_decoder_may_have_its_own_number_of_heads() -> None:
    model = replace(stored.TINY, num_heads_upsample=4)
    heads = {
        name.split(".")[0]: module.heads
        for name, module in build_network(model).named_modules()
        if hasattr(module, "heads")
    }
    assert heads == {"input_blocks": 2, "middle_block": 2, "output_blocks": 4}


def test_the_classifier_answers_for_every_class() -> None:
    config = ClassifierConfig(classifier_width=64, classifier_depth=1, classifier_attention_resolutions="16")
    classifier = build_classifier(config, 64).eval()
    with torch.no_grad():
        logits = classifier(stored.formula_picture(2, 64), torch.tensor([0, 999]))
    assert logits.shape == (2, 1000) and logits.isfinite().all()


def test_the_classifier_s_flags_reach_it() -> None:
    config = ClassifierConfig(
        classifier_width=64,
        classifier_depth=1,
        classifier_attention_resolutions="32",
        classifier_use_scale_shift_norm=False,
        classifier_resblock_updown=False,
        classifier_pool="spatial",
    )
    with torch.device("meta"):
        classifier = build_classifier(config, 64)
    spec = classifier.spec
    assert (spec.num_res_blocks, spec.attention_downsamples, classifier.pool) == (1, (2,), "spatial")
    assert not spec.use_scale_shift_norm and not spec.resblock_updown
    assert len(classifier.input_blocks) == 1 + 4 + 3  # the first, a block per level, a halving between them


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_without_respacing_the_process_is_the_training_one(schedule: str) -> None:
    config = ProcessConfig(diffusion_steps=400, noise_schedule=schedule, timestep_respacing="")  # type: ignore[arg-type]
    process, times = build_process(config)
    assert np.array_equal(process.betas, get_named_beta_schedule(schedule, 400))
    assert times.tolist() == list(range(400))


@pytest.mark.parametrize("respacing", ["250", "ddim25", "10,15,25"])
def test_a_respaced_process_has_the_training_noise_at_its_times(respacing: str) -> None:
    every_step, _ = build_process(ProcessConfig(timestep_respacing=""))
    process, times = build_process(ProcessConfig(timestep_respacing=respacing))
    assert np.allclose(process.alphas_cumprod, every_step.alphas_cumprod[times], rtol=1e-12)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_matrix_rate_is_of_the_precision_asked_for(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()
    mm = torch.mm

    def spy(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        seen.add(a.dtype)
        return mm(a[:64, :64], b[:64, :64])

    monkeypatch.setattr(build.torch, "mm", spy)
    before = torch.random.get_rng_state()
    assert matrix_rate(torch.device("cpu"), precision, 0.0) > 0
    assert seen == {{"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    assert torch.equal(before, torch.random.get_rng_state()), "training's draws are not touched"


def test_the_matrix_rate_is_the_best_product_s(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 3.0, 3.0, 4.0, 4.0, 6.0])  # products of 3, 1 and 2 seconds
    clock = iter([0.0, 2.0, 3.0, 9.0])
    monkeypatch.setattr(build.torch, "mm", lambda *_, **__: None)
    monkeypatch.setattr(build.time, "monotonic", lambda: next(clock))
    assert matrix_rate(torch.device("cpu"), "fp32", 5.0, lambda: next(ticks)) == 2 * 1024**3 / 1.0


# the network as it runs


@pytest.mark.parametrize(("precision", "body"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_placed_network_computes_in_its_precision_and_says_nearly_the_same(
    precision: str, body: torch.dtype
) -> None:
    torch.manual_seed(0)
    network = build_network(stored.TINY).eval()
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # some are born as zero
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        exact = network(x, t)
        placed = place(network, torch.device("cpu"), precision)
        told = placed(x, t)
    assert placed is network, "in place: no second copy"
    assert {p.dtype for p in network.input_blocks.parameters()} == {body}
    assert {p.dtype for part in (network.time_embed, network.out) for p in part.parameters()} == {
        torch.float32
    }
    assert told.dtype == torch.float32
    assert (told - exact).norm() < (1e-5 if body == torch.float32 else 0.05) * exact.norm()
    convolution = network.output_blocks[0][0].in_layers[2].weight
    assert convolution.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "changes", [{}, {"resblock_updown": False}, {"channel_mult": "1,1,2", "num_res_blocks": 2}]
)
def test_the_convolutions_are_given_what_is_told_beforehand(changes: dict[str, Any]) -> None:
    network, seen = build_network(replace(stored.TINY, **changes)), {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(
                lambda _layer, given, name=name: seen.update({name: list(given[0].shape)})
            )
    with torch.no_grad():
        network(torch.randn(1, 3, 16, 16), torch.tensor([7]))
    assert convolution_inputs(network, 16) == seen and len(seen) > 10


def test_placing_a_network_brings_no_compiler_along() -> None:
    """It would take a second and 80 MB."""
    program = """
import sys, torch
from guided_diffusion.build import build_network, place
from guided_diffusion.config.schema import ModelConfig
network = build_network(ModelConfig(image_size=16, num_channels=32, channel_mult="1,1", num_head_channels=16))
place(network, torch.device("cpu"), "bf16", 16)
assert not {"sympy", "torch._dynamo", "torch._inductor"} & {*sys.modules}
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_weights_mapped_from_a_file_are_placed_and_the_map_is_let_go(tmp_path: Path) -> None:
    """No second copy: as the resident pages of the map say, after all its weights have been converted."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    if any(kind == "tmpfs" and tmp_path.is_relative_to(at) for _, at, kind, *_ in mounts):
        pytest.skip("files that are memory themselves cannot be let go of")
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
    assert sum(float(values.float().sum()) for values in mapped), "all has been read"
    before = resident(path)
    placed = place(loaded, torch.device("cpu"), "bf16")
    size = path.stat().st_size
    assert before > 0.9 * size and resident(path) < 0.3 * size
    for key, value in placed.state_dict().items():
        assert torch.equal(value.float(), state[key].to(value.dtype).float())


def resident(path: Path) -> int:
    """Bytes of this process's maps of a file that are in memory."""
    lines, total = iter(Path("/proc/self/smaps").read_text().splitlines()), 0
    for line in lines:
        if line.endswith(str(path)):
            total += next(1024 * int(each.split()[1]) for each in lines if each.startswith("Rss:"))
    return total
