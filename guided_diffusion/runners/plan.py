"""The plan of a run, for --dry_run: images, NFE, estimated time, missing files."""

from __future__ import annotations

import logging
import time

import torch

from guided_diffusion.build import build_network, flops_per_evaluation
from guided_diffusion.checkpoints import remedy
from guided_diffusion.engine import Engine
from guided_diffusion.errors import DatasetError
from guided_diffusion.images.pairs import Pair
from guided_diffusion.output.reports import format_duration
from guided_diffusion.output.results import one_line
from guided_diffusion.runtime.device import matrix_rate
from guided_diffusion.runtime.inference import prepare_for_inference

log = logging.getLogger("penumbra")
MAX_TIMED_FLOPS = 50e9
"""FLOP per NFE, beyond which a network is estimated instead of timed.

Chosen so that the plan takes seconds: at the 200 GFLOP/s of a CPU core (docs/reports/benchmarks.md) the six
timed NFE of `seconds_per_nfe` take 1.5 s.
"""
NETWORK_SHARE = 0.75
"""Share of the device's matrix-product rate that a large network is taken to reach.

A round figure, not a measurement: below the 91 % of RePaint's CelebA-HQ network on a CPU in bfloat16
(docs/reports/benchmarks.md, "large"), to leave room for devices that reach less. The figures under "roofline"
there are the small network's, which is timed instead.
"""


def show_plan(engine: Engine) -> None:
    """Log the images, their cost and what is missing."""
    missing, data = engine.missing_files(), engine.config.data
    for path in missing:
        of_user = path in (*data.gt_paths, data.mask_path, data.shadow_free_path)
        log.info(f"missing: {path} ({'mend the path or put the images there' if of_user else remedy(path)})")
    pairs: list[Pair] = []
    try:
        pairs = engine.pairs()
    except DatasetError as error:
        if not {*data.gt_paths, data.mask_path} & set(missing):
            log.warning(str(error))
    for pair in pairs:
        log.info(f"  {one_line(pair.name)}")
    log.info(_cost_line(engine, len(pairs)))
    inpaints = any(spec.windowed for spec in engine.task.OUTPUTS if spec.name in engine.task.nfe)
    if inpaints and engine.config.windows != "whole" and data.mask_path:
        log.info(_windows_line(engine))


def _cost_line(engine: Engine, images: int) -> str:
    seconds = engine.nfe * seconds_per_nfe(engine) if engine.nfe else 0.0
    total = f"{images} images take about {format_duration(seconds * images)}" if images else "no images yet"
    shares = " + ".join(f"{nfe} for {output}" for output, nfe in engine.task.nfe.items())
    shares = f" ({shares})" if len(engine.task.OUTPUTS) > 1 else ""
    cost = f"{engine.nfe} NFE per image{shares}, about {format_duration(seconds)}"
    return f"{cost} on {engine.device}; {total}"


def _windows_line(engine: Engine) -> str:
    """Describe the windows that a plan without reading the masks cannot count."""
    size, windows = engine.size, engine.config.windows
    nfe = next(engine.task.nfe[spec.name] for spec in engine.task.OUTPUTS if spec.windowed)
    line = f"holes that no single {size}x{size} window serves take {nfe} NFE each"
    if windows == "overlap":
        line += f", larger ones {2 * nfe}, half of them in many windows"
    return f"{line} (windows: {windows})"


def seconds_per_nfe(engine: Engine) -> float:
    """Estimate the time of one NFE for one image.

    A small network is timed with random weights; a large one is estimated from its arithmetic. Classifier
    guidance is left out; at 256x256 it adds a fifth.
    """
    model, device, channels = engine.config.model, engine.device, engine.codec.channels
    shape = (1, channels, model.image_size, model.image_size)
    flops = flops_per_evaluation(model, shape)
    with torch.no_grad():
        if flops > MAX_TIMED_FLOPS:
            return flops / (matrix_rate(device, engine.precision) * NETWORK_SHARE)
        with torch.device(device):
            fresh, x, t = build_network(model, channels).eval(), torch.zeros(shape), torch.zeros(1)
            network = prepare_for_inference(fresh, device, engine.precision, model.image_size)
            label = (torch.zeros(1, dtype=torch.long),) if model.class_cond else ()
        times = []
        for _ in range(6):
            begin = time.perf_counter()
            network(x, t, *label).sum().item()
            times.append(time.perf_counter() - begin)
    return sorted(times)[2]
