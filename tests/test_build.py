"""From config values to networks and processes: sizes and costs against published figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from guided_diffusion.build import (
    build_classifier,
    build_network,
    build_process,
    flops_per_evaluation,
)
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
def test_flops_per_evaluation(model: ModelConfig, flops: float) -> None:
    assert flops_per_evaluation(model, (1, 3, 256, 256)) == pytest.approx(flops, rel=0.01)


def test_flops_grow_with_the_batch() -> None:
    model = ModelConfig(image_size=64, num_channels=32, num_head_channels=16, class_cond=True)
    single = flops_per_evaluation(model, (1, 3, 64, 64))
    assert single > 1e8
    assert flops_per_evaluation(model, (3, 3, 64, 64)) == pytest.approx(3 * single, rel=1e-3)


def test_build_network_reads_flags() -> None:
    plain = build_network(stored.TINY)
    assert (plain.out_channels, plain.num_classes, stored.TINY.size_multiple) == (6, None, 2)
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


def test_build_network_reads_num_heads_upsample() -> None:
    model = replace(stored.TINY, num_heads_upsample=4)
    heads = {
        name.split(".")[0]: module.heads
        for name, module in build_network(model).named_modules()
        if hasattr(module, "heads")
    }
    assert heads == {"input_blocks": 2, "middle_block": 2, "output_blocks": 4}


def test_classifier_has_logits_for_every_class() -> None:
    config = ClassifierConfig(classifier_width=64, classifier_depth=1, classifier_attention_resolutions="16")
    classifier = build_classifier(config, 64).eval()
    with torch.no_grad():
        logits = classifier(stored.formula_image(2, 64), torch.tensor([0, 999]))
    assert logits.shape == (2, 1000) and logits.isfinite().all()


def test_build_classifier_reads_flags() -> None:
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
def test_process_without_respacing_is_the_training_process(schedule: str) -> None:
    config = ProcessConfig(diffusion_steps=400, noise_schedule=schedule, timestep_respacing="")  # type: ignore[arg-type]
    process, times = build_process(config)
    assert np.array_equal(process.betas, get_named_beta_schedule(schedule, 400))
    assert times.tolist() == list(range(400))


@pytest.mark.parametrize("respacing", ["250", "ddim25", "10,15,25"])
def test_respaced_process_has_the_training_noise_at_its_times(respacing: str) -> None:
    every_step, _ = build_process(ProcessConfig(timestep_respacing=""))
    process, times = build_process(ProcessConfig(timestep_respacing=respacing))
    assert np.allclose(process.alphas_cumprod, every_step.alphas_cumprod[times], rtol=1e-12)
