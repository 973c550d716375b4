"""Seams with the shipped prior: the borders of overlapping windows cannot be seen in what they inpaint."""

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
from tests.helpers.project import ROOT
from tests.helpers.results import inpainted

SIDE, HOLE, STRIDE = 128, slice(20, 108), 32
SCENES = (3, 4)  # a lawn and asphalt: uniform, so that positions can be compared


def scores(engine: Engine) -> tuple[float, float]:
    """Compute seam ratios in the hole: across the windows' borders, and midway between them."""
    keep = np.ones((SIDE, SIDE), dtype=bool)
    keep[HOLE, HOLE] = False
    images = [render_free(scene_rng(4242, i), SIDE) for i in SCENES]
    names = [str(i) for i in SCENES]
    events = engine.inpaint_arrays(names, images, [keep] * len(SCENES))
    fills = [inpainted(event) for event in events if isinstance(event, Result)]
    at = np.arange(SIDE)
    scores_by_shift = []
    for shift in (0, STRIDE // 2):
        lines = np.broadcast_to(((at - shift) // STRIDE % 2 == 0)[:, None], keep.shape)
        ratios = [
            seam_ratio(fill[HOLE, HOLE], stripes[HOLE, HOLE])
            for fill in fills
            if fill is not None
            for stripes in (lines, lines.T)
        ]
        scores_by_shift.append(float(np.mean(ratios)))
    return scores_by_shift[0], scores_by_shift[1]


@pytest.fixture(scope="module")
def engine() -> Engine:
    keys = ["task=inpaint", "windows=overlap", "timestep_respacing=8", "data.batch_size=9"]
    keys += ["schedule_jump_params={jump_length: 1, jump_n_sample: 1}", "precision=fp32"]
    return Engine(load_config(ROOT / "confs/shadow.yml", keys))


@pytest.mark.slow
def test_overlapping_windows_leave_no_seam(engine: Engine) -> None:
    borders, inside = scores(engine)
    assert borders < 1.05 * inside


@pytest.mark.slow
def test_seam_ratio_finds_the_seams_of_adjacent_windows(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Show that the score of the test above can fail."""

    def side_by_side(
        denoise: Denoise, size: int, stride: int, region: Tensor, batch_size: int
    ) -> TiledDenoiser:
        return TiledDenoiser(denoise, size, size, region, batch_size)

    monkeypatch.setattr(inpainter, "TiledDenoiser", side_by_side)
    monkeypatch.setattr(inpainter, "COARSE_FREE_FRACTION", 1.0)  # without the coarse pass they differ most
    borders, inside = scores(engine)
    assert borders > 2 * inside
