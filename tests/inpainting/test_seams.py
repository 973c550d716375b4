"""With the shipped prior: where windows overlap, no border of theirs can be told in what they fill."""

from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor

from guided_diffusion.denoiser import Denoise
from guided_diffusion.engine import Engine, load_config
from guided_diffusion.evaluation.hole_metrics import seam_ratio
from guided_diffusion.inpainting import inpainter
from guided_diffusion.inpainting.tiled_denoiser import TiledDenoiser
from guided_diffusion.output.results import Result
from guided_diffusion.scenes.render import render_free, scene_rng
from tests.conftest import ROOT
from tests.helpers.results import inpainted

SIDE, HOLE, STRIDE = 128, slice(20, 108), 32
SCENES = (3, 4)  # a lawn and asphalt: alike everywhere, so that places can be compared


def scores(engine: Engine) -> tuple[float, float]:
    """Gradient over what is around: across the windows' borders in the hole, and midway between them."""
    keep = np.ones((SIDE, SIDE), dtype=bool)
    keep[HOLE, HOLE] = False
    images = [render_free(scene_rng(4242, i), SIDE) for i in SCENES]
    names = [str(i) for i in SCENES]
    events = engine.inpaint_arrays(names, images, [keep] * len(SCENES))
    fills = [inpainted(event) for event in events if isinstance(event, Result)]
    at = np.arange(SIDE)
    found = []
    for shift in (0, STRIDE // 2):
        lines = np.broadcast_to(((at - shift) // STRIDE % 2 == 0)[:, None], keep.shape)
        ratios = [
            seam_ratio(fill[HOLE, HOLE], stripes[HOLE, HOLE])
            for fill in fills
            if fill is not None
            for stripes in (lines, lines.T)
        ]
        found.append(float(np.mean(ratios)))
    return found[0], found[1]


@pytest.fixture(scope="module")
def engine() -> Engine:
    keys = ["task=inpaint", "windows=overlap", "timestep_respacing=8", "data.batch_size=9"]
    keys += ["schedule_jump_params={jump_length: 1, jump_n_sample: 1}", "precision=fp32"]
    return Engine(load_config(ROOT / "confs/shadow.yml", keys))


def test_the_borders_of_overlapping_windows_leave_no_seam(engine: Engine) -> None:
    borders, inside = scores(engine)
    assert borders < 1.05 * inside


def test_windows_side_by_side_would_leave_one(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the score above is known to tell."""

    def side_by_side(denoise: Denoise, size: int, stride: int, where: Tensor, at_once: int) -> TiledDenoiser:
        return TiledDenoiser(denoise, size, size, where, at_once)

    monkeypatch.setattr(inpainter, "TiledDenoiser", side_by_side)
    monkeypatch.setattr(inpainter, "COARSE_FREE_FRACTION", 1.0)  # without a sketch they differ most
    borders, inside = scores(engine)
    assert borders > 2 * inside
