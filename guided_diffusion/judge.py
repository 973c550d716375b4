"""Judging a prior: `python -m guided_diffusion.judge --conf_path confs/shadow.yml`.

Fresh procedural images, or windows of photographs, get holes; every method fills them, and a table says how
the fills compare with the truth and with two fills that know nothing (nearest pixel, membrane). Its seeds are
never those of training.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from guided_diffusion import checkpoints
from guided_diffusion.engine import Engine, load_config
from guided_diffusion.errors import CheckpointError, ConfigError, DatasetError, ImageError
from guided_diffusion.evaluation import feature_network
from guided_diffusion.evaluation.baselines import membrane_fill, nearest_fill
from guided_diffusion.evaluation.cases import Place, cut_places, draw_places
from guided_diffusion.evaluation.kid import scene_kid
from guided_diffusion.evaluation.prior_report import Answer, Block, report, score, sheet, to_csv
from guided_diffusion.images.files import write_bytes
from guided_diffusion.images.formats import write_image
from guided_diffusion.images.masks import MASK_KINDS
from guided_diffusion.output.results import Progress, Result
from guided_diffusion.runtime.hardware import keep_memory

FIRST_SEED = 1000  # seeds below are for training
METHODS = "nearest,membrane,repaint-1,repaint-5,repaint-10,ddpm,ddim,ddnm"
BASELINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "nearest": nearest_fill,
    "membrane": membrane_fill,
}
JUMP_LENGTH = 10


def overrides_of(method: str, steps: int) -> list[str]:
    """The config keys of a method such as repaint-10 (jump_n_sample 10), ddnm-5, ddim. Raises ConfigError."""
    match = re.fullmatch(r"(repaint|ddnm)-([1-9][0-9]*)|ddpm|ddim|ddnm|td_paint", method)
    if match is None:
        raise ConfigError(
            f"method {method!r} is unknown; choose among {METHODS}, td_paint; "
            "repaint-N and ddnm-N resample N times"
        )
    keys = [f"method={match[1] or method}", f"timestep_respacing='{steps}'"]
    if match[1] == "repaint":
        keys.append("rule=ddpm")
    if method.startswith(("repaint", "ddnm")):
        jumps = f"{{jump_length: {JUMP_LENGTH}, jump_n_sample: {match[2] or 1}}}"
        keys.append(f"schedule_jump_params={jumps}")
    return keys


def answer(method: str, places: Sequence[Place], engine: Engine | None) -> Answer:
    """Fill all places by a baseline, or by the engine. Raises ImageError if an image fails."""
    if engine is None:
        begin = time.monotonic()
        filled = [BASELINES[method](place.truth, place.keep) for place in tqdm(places, desc=method)]
        return Answer(method, filled, (time.monotonic() - begin) / len(places))
    results: dict[str, Result] = {}
    batches = -(-len(places) // engine.batch_size)
    names, truths, keeps = zip(*((place.name, place.truth, place.keep) for place in places), strict=True)
    with tqdm(total=batches * engine.nfe, desc=method, unit="step") as bar:
        for event in engine.fill(names, truths, keeps):
            if isinstance(event, Progress):
                bar.update()
            else:
                results[event.name] = event
    images = [_picture(results[name]) for name in names]
    seconds = sum(result.seconds for result in results.values()) / len(places)
    return Answer(method, images, seconds, engine.nfe)


def _picture(result: Result) -> np.ndarray:
    if result.filled is None:
        raise ImageError(f"{result.name}: {result.error}")
    return result.filled


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m guided_diffusion.judge",
        description="Judge a prior on fresh procedural images or on photographs.",
    )
    add = parser.add_argument
    add("--conf_path", required=True, help="a YAML that names the model, such as confs/shadow.yml")
    add("--n", type=int, default=64, help="number of images, or of windows of photographs (default 64)")
    add("--images", help="a folder of photographs (default: procedural images)")
    add("--masks", default="thick", help=f"separated by commas: {', '.join(MASK_KINDS)} (default thick)")
    add("--seed", type=int, default=FIRST_SEED, help=f"of images, windows and masks, from {FIRST_SEED} on")
    add("--methods", default=METHODS, help=f"separated by commas (default {METHODS}); also td_paint")
    add("--steps", type=int, default=100, help="timesteps of each walk (default 100)")
    add("--batch", type=int, default=16, help="images at once (default 16)")
    add("--out", default="log/judge/table.md", help="markdown file to write")
    add("--sheet", default="log/judge/sheet.png", help="contact sheet to write")
    add("--csv", help="also write every image's scores here")
    add(
        "--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the YAML"
    )
    options = parser.parse_args(arguments)
    if options.n < 1 or options.batch < 1:
        parser.error(f"--n {options.n} --batch {options.batch}: need at least 1 of each")
    if options.seed < FIRST_SEED:
        parser.error(f"--seed {options.seed}: seeds below {FIRST_SEED} belong to training; take a larger one")
    unknown = [kind for kind in options.masks.split(",") if kind not in MASK_KINDS]
    if unknown:
        parser.error(f"--masks {unknown[0]!r} is unknown; choose among {', '.join(MASK_KINDS)}")
    return options


def open_engines(options: argparse.Namespace) -> dict[str, Engine | None]:
    """Method -> its engine, None for a baseline. Raises ConfigError."""
    engines: dict[str, Engine | None] = {}
    for method in options.methods.split(","):
        if method in BASELINES:
            engines[method] = None
            continue
        keys = [*options.set, *overrides_of(method, options.steps), f"data.batch_size={options.batch}"]
        engines[method] = Engine(load_config(options.conf_path, keys))
    return engines


def describe(options: argparse.Namespace, engines: Mapping[str, Engine | None], size: int) -> list[str]:
    """What was judged, and on what."""
    given = "procedural images that training never saw"
    if options.images:
        given = f"windows of the photographs in {Path(options.images).name}"
    lines = [
        "# The prior against fills that know nothing",
        "",
        f"{options.n} {given}, {size}x{size}, seed {options.seed}.",
        "Ratios are best at 1, PSNR (dB) high, all else low; `guided_diffusion/metrics.py` defines them, and "
        "`crossing.py` what it is that structure crosses a hole.",
        "Scene-feature KID is of images as sets, by features learnt here, not Inception's; best at 0.",
        "In brackets: 90 % bootstrap intervals over scenes.",
    ]
    learned = [engine for engine in engines.values() if engine is not None]
    if learned:
        weights = checkpoints.digest(learned[0].config.model_path)[:12]
        lines.append(
            f"Weights {Path(learned[0].config.model_path).name} (SHA-256 {weights}...), "
            f"{options.steps} steps, jump_length {JUMP_LENGTH}, {learned[0].device.type}, "
            f"{learned[0].precision}; repaint-N: jump_n_sample N."
        )
    told = engines.get("td_paint")
    if told is not None and not told.config.model.per_pixel_time:
        lines.append("td_paint: these weights were not trained for it (per_pixel_time).")
    return lines


def judge(options: argparse.Namespace) -> str:
    """Fill, score, write the files; returns the report.

    Raises ConfigError, CheckpointError, DatasetError, ImageError.
    """
    feature_network.weights()  # rather now than after an hour of filling
    engines = open_engines(options)
    size = load_config(options.conf_path, options.set).model.image_size
    blocks = [_block(options, kind, engines, size) for kind in options.masks.split(",")]
    text = report(describe(options, engines, size), blocks)
    write_bytes(options.out, text.encode())
    write_image(options.sheet, sheet(blocks))
    if options.csv:
        write_bytes(options.csv, to_csv(blocks))
    return text


def _block(options: argparse.Namespace, kind: str, engines: Mapping[str, Engine | None], size: int) -> Block:
    if options.images:
        places = cut_places(options.images, options.n, size, kind, options.seed)
    else:
        places = draw_places(options.n, size, kind, options.seed)
    answers = [answer(method, places, engine) for method, engine in engines.items()]
    answers.append(Answer("the truth", [place.truth for place in places], 0.0))
    sets = {each.method: each.images for each in answers}
    kid = scene_kid(sets, [place.truth for place in places], [place.scene for place in places])
    return Block(kind, places, answers, score(places, answers), kid)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit code 2 if the settings, the weights or an image are wrong."""
    options = parse(arguments)
    keep_memory()
    try:
        print(judge(options))
    except (ConfigError, CheckpointError, DatasetError, ImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
