"""Codec seam: inpainting runs in a model space of 12 channels at half size, end to end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guided_diffusion.build import build_network
from guided_diffusion.codec import Codec, PixelCodec
from guided_diffusion.config.schema import ModelConfig
from guided_diffusion.denoiser import Denoise, Prediction
from guided_diffusion.engine import Engine, load_config
from guided_diffusion.errors import ConfigError
from guided_diffusion.inpainting import inpainter
from guided_diffusion.inpainting.coarse_guidance import CoarseGuidedDenoiser
from guided_diffusion.inpainting.tiled_denoiser import TiledDenoiser
from guided_diffusion.output.results import Result
from guided_diffusion.runners.plan import show_plan
from tests.helpers.project import MODEL, NFE, Project, image, keep_mask
from tests.helpers.results import inpainted
from tests.helpers.toy_codec import ToyCodec

SIZE = 2 * int(str(MODEL["image_size"]))  # of the model's images, in image pixels
METHODS = ["repaint", "ddim", "ddnm"]
WINDOWS = ["holes", "whole", "overlap"]
SHAPES = [(SIZE, SIZE), (45, 71), (33, 31), (9, 12), (62, 57)]
STEPS = {"repaint": NFE, "ddim": 6, "ddnm": NFE}


@pytest.fixture(scope="module")
def toy_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a tiny network with 12 channels."""
    torch.manual_seed(1)
    network = build_network(ModelConfig(**MODEL), channels=12)
    state = {key: value + 0.05 * torch.randn_like(value) for key, value in network.state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "toy.pt"
    torch.save(state, path)
    return path


@pytest.fixture
def conf(project: Project, toy_weights: Path) -> Path:
    return project(count=0, model_path=str(toy_weights), precision="fp32", data={"batch_size": 4})


def hole_in(shape: tuple[int, int], large: bool = False) -> np.ndarray:
    """A keep mask with a hole at odd places; a large hole is larger than the model."""
    height, width = shape
    keep = np.ones(shape, dtype=bool)
    if large:
        keep[5 : height - 6, 7 : width - 4] = False
    else:
        keep[height // 3 : height // 3 + 3, width // 3 : width // 3 + 5] = False
    return keep


def run(
    conf: Path,
    images: Sequence[np.ndarray],
    keeps: Sequence[np.ndarray],
    *overrides: str,
    codec: Codec | None = None,
    models: Any = None,
) -> list[Result]:
    engine = Engine(load_config(conf, overrides), codec=codec or ToyCodec(), models=models)
    names = [f"p{i}" for i in range(len(images))]
    events = engine.inpaint_arrays(names, images, keeps)
    by_name = {event.name: event for event in events if isinstance(event, Result)}
    assert [by_name[name].error for name in names] == [""] * len(names)
    return [by_name[name] for name in names]


def pixels(result: Result) -> np.ndarray:
    array = inpainted(result)
    assert array is not None and result.gt is not None and array.shape == result.gt.shape
    return array


# the codec itself


@pytest.mark.parametrize("shape", [(8, 6), (7, 5), (1, 1), (2, 9)])
def test_toy_codec_decodes_what_it_encoded(shape: tuple[int, int]) -> None:
    shown, codec = image(0, *shape), ToyCodec()
    x = codec.encode([shown, shown])
    assert x.shape == (2, 12, -(-shape[0] // 2), -(-shape[1] // 2)) and x.abs().max() <= 1
    assert np.array_equal(codec.decode(x)[1, : shape[0], : shape[1]], shown)


def test_toy_mask_is_known_where_all_four_pixels_are() -> None:
    keep = np.ones((1, 3, 4), dtype=bool)
    keep[0, 1, 1] = keep[0, 2, 3] = False  # the last row is odd and padded
    assert ToyCodec().encode_mask(keep).tolist() == [[[[0, 1], [1, 0]]]]


def test_engine_sizes_are_in_image_pixels(conf: Path) -> None:
    engine = Engine(load_config(conf), codec=ToyCodec())
    pixel_engine = Engine(load_config(conf))
    assert (engine.size, pixel_engine.size) == (SIZE, SIZE // 2)
    assert engine._parts.multiple == 2 * pixel_engine._parts.multiple


def test_networks_take_the_codec_s_channels(conf: Path) -> None:
    engine = Engine(
        load_config(
            conf, ["classifier_path=c.pt", "classifier_scale=1", "classifier_width=64", "classifier_depth=1"]
        ),
        codec=ToyCodec(),
    )
    network, classifier = engine.models.build_on_meta()
    assert classifier is not None
    assert [net.input_blocks[0][0].in_channels for net in (network, classifier)] == [12, 12]


# end to end


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("method", METHODS)
def test_known_bytes_are_kept_and_holes_change(conf: Path, method: str, windows: str) -> None:
    images = [image(i, *shape) for i, shape in enumerate(SHAPES)]
    keeps = [hole_in(shape) for shape in SHAPES]
    for result in run(conf, images, keeps, f"method={method}", f"windows={windows}"):
        gt, keep = result.gt, result.keep
        assert gt is not None and keep is not None
        assert np.array_equal(pixels(result)[keep], gt[keep])
        assert (pixels(result)[~keep] != gt[~keep]).mean() > 0.5
        if min(gt.shape[:2]) >= SIZE and windows == "holes":
            assert result.outputs["inpainted"].nfe == STEPS[method]


@pytest.mark.parametrize(
    ("method", "shape"), [("repaint", (64, 61)), ("ddim", (64, 101)), ("ddnm", (83, 60))]
)
def test_hole_larger_than_the_model_runs_in_overlapping_windows(
    conf: Path, method: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiled, guided = [], []

    class RecordingTiles(TiledDenoiser):
        def __call__(self, x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
            tiled.append((tuple(x.shape), self.size, self.stride))
            return super().__call__(x, t, clean)

    class RecordingGuidance(CoarseGuidedDenoiser):
        def __call__(self, x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
            guided.append((tuple(self.coarse.shape), self.region.shape == (1, 1, *x.shape[-2:]), x.shape))
            assert self.coarse.abs().max() <= 1
            return super().__call__(x, t, clean)

    monkeypatch.setattr(inpainter, "TiledDenoiser", RecordingTiles)
    monkeypatch.setattr(inpainter, "CoarseGuidedDenoiser", RecordingGuidance)
    shown, keep = image(3, *shape), hole_in(shape, large=True)
    [result] = run(conf, [shown], [keep], f"method={method}", "windows=overlap")
    assert np.array_equal(pixels(result)[keep], shown[keep])
    assert (pixels(result)[~keep] != shown[~keep]).mean() > 0.5
    assert result.outputs["inpainted"].nfe == 2 * STEPS[method]
    assert len(tiled) == len(guided) == STEPS[method]
    x_shape, side, stride = tiled[0]
    assert x_shape[:2] == (1, 12) and (side, stride) == (SIZE // 2, SIZE // 4)
    assert min(x_shape[2:]) > side  # larger than the model
    assert guided[0] == (x_shape, True, x_shape)


@pytest.mark.parametrize("windows", WINDOWS)
def test_result_does_not_depend_on_the_batch(conf: Path, windows: str) -> None:
    shapes = [(45, 71), (45, 71), (33, 31), (62, 57)]
    images = [image(i, *shape) for i, shape in enumerate(shapes)]
    keeps = [hole_in(shape, large=i == 3) for i, shape in enumerate(shapes)]
    overrides = [f"windows={windows}", "method=ddim"]
    together = run(conf, images, keeps, *overrides, "data.batch_size=4")
    one_by_one = run(conf, images, keeps, *overrides, "data.batch_size=1")
    for first, second in zip(together, one_by_one, strict=True):
        assert np.abs(pixels(first).astype(int) - pixels(second)).max() <= 1
        assert first.outputs["inpainted"].nfe == second.outputs["inpainted"].nfe


def test_dry_run_counts_the_cost_of_other_channels(conf: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(load_config(conf, ["data.gt_path=gts", "data.mask_path=masks"]), codec=ToyCodec())
    with caplog.at_level(logging.INFO, "penumbra"):
        show_plan(engine)
    assert f"{NFE} NFE per image" in caplog.text


def test_default_codec_is_pixels(project: Project) -> None:
    conf = project(count=0, precision="fp32")
    shown, keep = [image(0, 20, 30)], [keep_mask(20, 30)]
    [given] = run(conf, shown, keep, codec=PixelCodec())
    engine = Engine(load_config(conf))
    [default] = [event for event in engine.inpaint_arrays(["p0"], shown, keep) if isinstance(event, Result)]
    assert isinstance(engine.codec, PixelCodec) and np.array_equal(pixels(given), pixels(default))


# truth: a denoiser that knows the image


class Oracle:
    """Models whose denoiser predicts the encoded ground truth, also in overlapping windows."""

    single_shape, paths = False, ()
    identity = {"weights": "oracle"}

    def __init__(self, monkeypatch: pytest.MonkeyPatch, conf: Path, codec: Codec) -> None:
        self.process = Engine(load_config(conf), codec=codec).process
        self.truth = torch.zeros(0)
        self.tiled_calls = 0
        oracle = self

        class RecordingCodec(type(codec)):  # type: ignore[misc]
            def encode(self, images: Sequence[np.ndarray]) -> Tensor:
                oracle.truth = super().encode(images)  # unknown pixels of a view are the image's own
                return oracle.truth

        self.codec = RecordingCodec()
        monkeypatch.setattr(inpainter, "TiledDenoiser", self.tile)

    def expected_batch(self, shape: Sequence[int]) -> int:
        return sys.maxsize

    def denoiser(self, images: Sequence[Any]) -> Denoise:
        return self.predictor(self.truth)

    def predictor(self, truth: Tensor) -> Denoise:
        def denoise(x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
            assert x.shape == truth.shape
            variance = self.process.log_variance(x, t, large=False)
            return Prediction(truth, self.process.eps_from_x0(x, t, truth), variance)

        return denoise

    def tile(self, _: Denoise, size: int, stride: int, region: Tensor, batch_size: int) -> TiledDenoiser:
        """Windows of the full-resolution view that was encoded last, all in one call."""
        truth, self.tiled_calls = self.truth, self.tiled_calls + 1
        corners = TiledDenoiser(self.predictor(truth), size, stride, region).corners(*truth.shape[-2:])
        parts = torch.cat([truth[..., i : i + size, j : j + size] for i, j in corners])
        return TiledDenoiser(self.predictor(parts), size, stride, region, sys.maxsize)


@pytest.mark.parametrize("codec", [ToyCodec(), PixelCodec()], ids=["toy", "pixels"])
@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("method", [*METHODS, "ddpm"])
def test_truthful_denoiser_reproduces_the_image(
    conf: Path, method: str, windows: str, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle, size = Oracle(monkeypatch, conf, codec), SIZE * codec.factor // 2
    shapes = [(size, size), (size, size)] if windows == "whole" else [(3 * size - 7, 2 * size + 9), (45, 71)]
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    keeps = [hole_in(shape, large=windows == "overlap") for shape in shapes]
    overrides = [f"method={method}", f"windows={windows}"]
    for result in run(conf, images, keeps, *overrides, codec=oracle.codec, models=oracle):
        assert result.gt is not None
        assert np.abs(pixels(result).astype(int) - result.gt).max() <= 1
    assert oracle.tiled_calls == (2 if windows == "overlap" else 0)


def test_model_pixels_that_are_known_in_part_are_inpainted(
    conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DDNM replaces x0 where the model pixel is known, so its result shows the mask in model space."""
    oracle = Oracle(monkeypatch, conf, ToyCodec())
    grey = oracle.predictor(torch.zeros(1, 12, SIZE // 2, SIZE // 2))
    models = SimpleNamespace(
        denoiser=lambda images: grey,
        expected_batch=oracle.expected_batch,
        identity=oracle.identity,
        single_shape=False,
    )
    shown, keep = image(0, SIZE, SIZE), np.ones((SIZE, SIZE), dtype=bool)
    keep[9:12, 5:9] = False
    blocks = np.ones_like(keep)
    blocks[8:12, 4:10] = False
    overrides = ["method=ddnm", "windows=whole", "paste_known=false"]
    [result] = run(conf, [shown], [keep], *overrides, models=models)
    assert np.array_equal(pixels(result)[blocks], shown[blocks])
    assert (pixels(result)[~blocks] == 128).all()


def test_batch_and_memory_count_model_pixels(project: Project) -> None:
    conf = project(count=1)
    pixels, toy = Engine(load_config(conf)), Engine(load_config(conf), codec=ToyCodec())
    assert toy.batch_size == pixels.batch_size and toy.size == 2 * pixels.size
    image = (toy.size, toy.size, 3)
    wider = toy.models.activation_bytes(image) / pixels.models.activation_bytes((16, 16, 3))
    assert 1 < wider < 2  # the first layer has 12 channels instead of 3, the others are the same
    assert toy.models.activation_bytes(image) == toy.models.activation_bytes((32, 32, 3))


def test_remove_shadow_with_prior_refuses_other_model_spaces(project: Project) -> None:
    conf = project(count=1, task="remove_shadow")
    Engine(load_config(conf), codec=ToyCodec())
    for setting in ("relight.prior=diffusion", "relight.refine=true"):
        with pytest.raises(ConfigError, match="works on pixels; set relight.prior: none"):
            Engine(load_config(conf, [setting]), codec=ToyCodec())
