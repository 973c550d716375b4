"""The networks against outputs of the published code, and against their frozen parameter names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guided_diffusion.build import build_classifier, build_network
from guided_diffusion.config.schema import ClassifierConfig, ModelConfig
from guided_diffusion.nn import GroupNorm32, embed_time_map, timestep_embedding
from guided_diffusion.unet import Encoder, EncoderUNetModel, UNetModel
from tests.helpers import stored

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "addemb": {"use_scale_shift_norm": False},
    "convresample": {"resblock_updown": False},
    "headch16": {"num_head_channels": 16},
    "nolearnsigma": {"learn_sigma": False},
    "neworder": {"use_new_attention_order": True},
    "classes": {"class_cond": True},
    "halfmult": {"num_channels": 64, "channel_mult": "0.5,1"},  # as the 512x512 networks begin
    "threelevels": {
        "channel_mult": "1,1,2",
        "attention_resolutions": "16,8",
        "num_res_blocks": 2,
        "num_heads_upsample": 1,
        "use_scale_shift_norm": False,
        "resblock_updown": False,
    },
}
TIMES, LABELS = torch.tensor([3, 700]), torch.tensor([7, 941])


def formula(network: nn.Module) -> Any:
    network.load_state_dict(stored.formula_state(network.state_dict()))
    return network.eval()


def variant(name: str, **more: Any) -> UNetModel:
    return formula(build_network(replace(stored.TINY, **{**VARIANTS[name], **more})))


def evaluate(network: UNetModel, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x, TIMES, LABELS) if network.num_classes else network(x, TIMES)


def test_network_with_scaled_weights_matches_published_output() -> None:
    golden = stored.tensors("repaint")
    with torch.no_grad():
        out = stored.tiny_network()(golden["net/x"], golden["net/t"])
    assert (out - golden["net/out"]).abs().max() < 1e-5  # bit-equal with 2 threads


@pytest.mark.parametrize("name", VARIANTS)
def test_network_families_match_published_output(name: str) -> None:
    expected = stored.tensors("networks")[f"unet/{name}"]
    out = evaluate(variant(name), stored.formula_image(2, 16))
    assert out.shape == expected.shape
    assert (out - expected).abs().max() < 1e-5


def test_network_families_differ_by_more_than_the_tolerance() -> None:
    """So that the comparison above cannot pass by mixing two of them up."""
    golden = stored.tensors("networks")
    outs = [v for k, v in golden.items() if k.startswith("unet/") and v.shape[1] == 6]
    gaps = [(a - b).abs().max() for i, a in enumerate(outs) for b in outs[:i]]
    assert min(gaps) > 1e-2


@pytest.mark.parametrize("pool", ["adaptive", "attention", "spatial", "spatial_v2"])
def test_classifier_pools_match_published_logits(pool: str) -> None:
    spec = Encoder(
        3, 32, 1, (1, 2), (2,), num_head_channels=16, use_scale_shift_norm=True, resblock_updown=True
    )
    classifier = formula(EncoderUNetModel(spec, 16, 10, pool))
    with torch.no_grad():
        logits = classifier(stored.formula_image(2, 16), TIMES)
    assert (logits - stored.tensors("networks")[f"classifier/{pool}"]).abs().max() < 1e-5


PUBLISHED: dict[str, ModelConfig | ClassifierConfig] = {
    "celeba256": ModelConfig(),
    "imagenet256": ModelConfig(class_cond=True),
    "imagenet512": ModelConfig(image_size=512, class_cond=True),
    "imagenet64": ModelConfig(
        image_size=64, num_channels=192, num_res_blocks=3, class_cond=True, use_new_attention_order=True
    ),
    "classifier256": ClassifierConfig(),
    "shadow128": ModelConfig(
        num_channels=128, attention_resolutions="16,8", num_head_channels=-1, resblock_updown=False
    ),
    "improved64": ModelConfig(
        image_size=64,
        num_channels=128,
        num_res_blocks=3,
        attention_resolutions="16,8",
        num_head_channels=-1,
        resblock_updown=False,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_names_and_shapes_match_published_checkpoints(name: str) -> None:
    config, published = PUBLISHED[name], stored.facts("state_dicts")[name]
    with torch.device("meta"):
        network: nn.Module = (
            build_network(config) if isinstance(config, ModelConfig) else build_classifier(config, 256)
        )
    state = network.state_dict()
    assert len(state) == published["tensors"]
    assert sum(value.numel() for value in state.values()) == published["parameters"]
    assert stored.fingerprint(state) == published["sha256"]


@pytest.mark.parametrize("times", [TIMES, 500 + 400 * stored.formula_image(2, 16)[:, :1]], ids=["one", "map"])
def test_gradients_are_equal_with_and_without_checkpointing(times: Tensor) -> None:
    x = stored.formula_image(2, 16)

    def gradients(use_checkpoint: bool) -> list[Tensor]:
        network = variant("plain", use_checkpoint=use_checkpoint).train()
        network(x, times).square().mean().backward()
        return [p.grad for p in network.parameters() if p.grad is not None]

    plain, checkpointed = gradients(False), gradients(True)
    assert len(plain) == len(list(variant("plain").parameters()))
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(plain, checkpointed, strict=True))


def test_network_accepts_multiples_of_size_multiple() -> None:
    network = variant("threelevels")
    assert 2 ** (len(network.spec.channel_mult) - 1) == 4
    wide = stored.formula_image(2, 24)[:, :, :12, :20]
    assert evaluate(network, wide).shape == (2, 6, 12, 20)
    with pytest.raises(RuntimeError):
        evaluate(network, wide[..., :18])


def test_network_keeps_images_of_a_batch_independent() -> None:
    network, x = variant("plain"), stored.formula_image(2, 16)
    together = evaluate(network, x)
    with torch.no_grad():
        alone = network(x[1:], TIMES[1:])
    assert torch.allclose(together[1:], alone, atol=1e-5)


def test_class_conditional_network_needs_and_uses_the_label() -> None:
    network, x = variant("classes"), stored.formula_image(1, 16).expand(2, -1, -1, -1)
    with torch.no_grad():
        first, second = network(x, torch.tensor([5, 5]), LABELS)
    assert (first - second).abs().max() > 1e-3
    with pytest.raises(ValueError, match="class-conditional"):
        network(x, TIMES)


def test_untrained_network_returns_zero() -> None:
    """The zero-initialised last layer: training starts from the prediction of the mean."""
    out = build_network(stored.TINY)(stored.formula_image(2, 16), TIMES)
    assert torch.equal(out, torch.zeros(2, 6, 16, 16))


def test_norm_num_groups_that_does_not_divide_is_named() -> None:
    with pytest.raises(ValueError, match="norm_num_groups 24 does not divide 32 channels"):
        build_network(replace(stored.TINY, norm_num_groups=24))


def test_network_with_one_channel_per_group_ignores_the_mean_of_its_input() -> None:
    """The purpose of norm_num_groups: each channel of the last layer loses its mean over the image."""

    def telling(groups: int) -> float:
        torch.manual_seed(0)
        network = build_network(replace(stored.TINY, norm_num_groups=groups)).eval()
        with torch.no_grad():
            network.out[2].weight.normal_(std=0.1)  # it is born as zero
            x = torch.randn(1, 3, 16, 16)
            means = [network(x + shift, torch.zeros(1)).mean(dim=(2, 3)) for shift in (0.0, 3.0)]
        return float((means[1] - means[0]).abs().max())

    assert telling(32) < 0.2 * telling(8)


def test_head_width_that_does_not_divide_is_named() -> None:
    with pytest.raises(ValueError, match="num_head_channels 48 does not divide 64 channels"):
        build_network(replace(stored.TINY, num_head_channels=48))


def test_unknown_pool_error_lists_the_choices() -> None:
    spec = Encoder(3, 32, 1, (1,), (), num_head_channels=32)
    with pytest.raises(ValueError, match="'max' is unknown; choose one of adaptive, attention"):
        EncoderUNetModel(spec, 16, 10, "max")


# a time per pixel


def with_map(network: UNetModel, x: Tensor, times: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x, times, LABELS) if network.num_classes else network(x, times)


@pytest.mark.parametrize("name", VARIANTS)
def test_constant_time_map_equals_that_time(name: str) -> None:
    network, x = variant(name), stored.formula_image(2, 24)[:, :, :16]
    times = TIMES.float()[:, None, None, None].expand(2, 1, 16, 24)
    assert (with_map(network, x, times) - evaluate(network, x)).abs().max() < 1e-5


def test_embed_time_map_averages_2x2_times_for_each_level() -> None:
    """Three levels and four tiles of 4x4 pixels; the means are worked out by hand."""
    tiles = torch.tensor([[0.0, 700.0], [3.0, 90.0]])
    pixels = tiles.repeat_interleave(4, 0).repeat_interleave(4, 1).clone()
    pixels[0, 0] = 80.0
    table = embed_time_map(lambda t: timestep_embedding(t, 8), pixels[None, None], 3)
    assert isinstance(table, dict)
    assert [(height, *level.shape) for height, level in table.items()] == [(h, 1, h, h, 8) for h in (8, 4, 2)]
    for height, first in ((8, 80.0), (4, 20.0), (2, 5.0)):
        times = torch.tensor([first, 700.0, 3.0, 90.0])
        corners = table[height][0, :: height // 2, :: height // 2].reshape(4, 8)
        assert torch.allclose(corners, nn.functional.silu(timestep_embedding(times, 8)), atol=1e-5)


def test_time_of_a_pixel_changes_its_neighbourhood_most() -> None:
    """Without attention only the normalisations look farther than the convolutions, so sizes tell."""
    network, x = variant("convresample", attention_resolutions=""), stored.formula_image(1, 64)
    times = torch.full((1, 1, 64, 64), 700.0)
    changed = times.clone()
    changed[..., :8, :8] = 0
    gap = (with_map(network, x, times) - with_map(network, x, changed)).abs().mean(1)[0]
    assert gap[:8, :8].mean() > 20 * gap[32:, 32:].mean() > 0


def test_timestep_embedding_equals_its_formula() -> None:
    t = torch.tensor([0.0, 2.5])
    out = timestep_embedding(t, 5)
    waves = [t * 10000 ** (-i / 2) for i in range(2)]
    expected = torch.stack([*(w.cos() for w in waves), *(w.sin() for w in waves), torch.zeros(2)], dim=1)
    assert torch.allclose(out, expected, atol=1e-6)
    assert torch.equal(
        timestep_embedding(torch.tensor([437]), 32), timestep_embedding(torch.tensor([437.0]), 32)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_last_layer_is_computed_in_float32(dtype: torch.dtype) -> None:
    network = variant("plain")
    fed: list[Tensor] = []
    network.output_blocks[-1].register_forward_hook(lambda _module, _inputs, out: fed.append(out))
    with torch.autocast("cpu", dtype=dtype):
        out = evaluate(network, stored.formula_image(2, 16))
    assert fed[0].dtype == dtype and out.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(out, network.out(fed[0].float()))


def test_group_norm_of_half_precision_does_not_overflow_and_keeps_type() -> None:
    norm = GroupNorm32(2, 4)
    x = (torch.arange(4 * 64.0).view(1, 4, 8, 8) * 100).half()  # squares of these overflow in half precision
    out = norm(x)
    assert out.dtype == torch.float16
    groups = x.double().view(1, 2, -1)
    expected = (groups - groups.mean(-1, keepdim=True)) / groups.std(-1, correction=0, keepdim=True)
    assert torch.allclose(out.double().view(1, 2, -1), expected, atol=2e-3)
