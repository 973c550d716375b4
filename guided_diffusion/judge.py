"""Judging a prior: `python -m guided_diffusion.judge --conf_path confs/shadow.yml`.

Fresh procedural scenes get holes, every method fills them, and a table says how the fills compare with the
truth and with two fills that know nothing (nearest pixel, membrane). Its seeds are never those of training.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from guided_diffusion import checkpoints, metrics
from guided_diffusion.checkpoints import CheckpointError
from guided_diffusion.construct import ConfigError
from guided_diffusion.engine import Engine, load_config
from guided_diffusion.files import write_bytes
from guided_diffusion.fills import membrane_fill, nearest_fill
from guided_diffusion.images import PictureError, contact_sheet, write_picture
from guided_diffusion.masks import MASK_KINDS, make_mask
from guided_diffusion.results import Progress, Result
from guided_diffusion.scenes import render_free, scene_rng

FIRST_SEED = 1000  # seeds below are for training
METHODS = "nearest,membrane,repaint-1,repaint-5,repaint-10,ddpm,ddim,ddnm"
BASELINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "nearest": nearest_fill,
    "membrane": membrane_fill,
}
JUMP_LENGTH = 10
ON_SHEET = ("nearest", "membrane", "repaint-1", "repaint-10")
SHEET_ROWS = 8
TEXTURE = (0.7, 1.4)  # where the hole's texture energy, relative to its surroundings', should lie


@dataclass(frozen=True)
class Place:
    """A scene, uint8 (S, S, 3), and what is known of it, bool (S, S)."""

    name: str
    truth: np.ndarray
    keep: np.ndarray


@dataclass(frozen=True)
class Answer:
    """What one method made of all places; seconds and network evaluations are per picture."""

    method: str
    pictures: list[np.ndarray]
    seconds: float
    evaluations: int = 0


@dataclass(frozen=True)
class Column:
    """A measure of (filled, place), how it is averaged over places, and its decimals."""

    key: str
    title: str
    measure: Callable[[np.ndarray, Place], float]
    statistic: Callable[..., np.ndarray] = np.mean
    decimals: int = 2

    def cell(self, values: Sequence[float]) -> str:
        told = (float(self.statistic(values)), *metrics.bootstrap(values, self.statistic))
        return "{} [{}, {}]".format(*(f"{value:.{self.decimals}f}" for value in told))


COLUMNS = (
    Column("ring", "ring mismatch", lambda x, p: metrics.ring_gradient_mismatch(x, p.truth, p.keep)),
    Column("level", "ring level", lambda x, p: metrics.ring_level_mismatch(x, p.truth, p.keep)),
    Column("seam", "seam ratio", lambda x, p: metrics.seam_ratio(x, p.keep), np.median),
    Column("texture", "texture, hole / outside", lambda x, p: metrics.texture_ratio(x, p.keep), np.median),
    Column(
        "texture_truth",
        "texture, hole / truth",
        lambda x, p: metrics.texture_ratio_to_truth(x, p.truth, p.keep),
        np.median,
    ),
    Column("ring_error", "ring error", lambda x, p: metrics.ring_gradient_error(x, p.truth, p.keep)),
    Column("lab", "LAB error", lambda x, p: metrics.lab_error(x, p.truth, ~p.keep), decimals=1),
    Column("psnr", "PSNR", lambda x, p: metrics.psnr(x, p.truth, ~p.keep), decimals=1),
)


def draw_places(n: int, size: int, kind: str, seed: int) -> list[Place]:
    """`n` scenes with masks; place i depends on (seed, i) alone."""
    places = []
    for i in range(n):
        rng = scene_rng(seed, i)
        truth = render_free(rng, size)
        places.append(Place(f"{seed}-{i:04d}", truth, make_mask(kind, (size, size), rng)))
    return places


def overrides_of(method: str, steps: int) -> list[str]:
    """The config keys of a method such as repaint-10 (jump_n_sample 10), ddnm-5, ddim. Raises ConfigError."""
    match = re.fullmatch(r"(repaint|ddnm)-([1-9][0-9]*)|ddpm|ddim|ddnm", method)
    if match is None:
        raise ConfigError(
            f"method {method!r} is unknown; choose among {METHODS}, repaint-N and ddnm-N resample N times"
        )
    keys = [f"method={match[1] or method}", f"timestep_respacing='{steps}'"]
    if method.startswith(("repaint", "ddnm")):
        jumps = f"{{jump_length: {JUMP_LENGTH}, jump_n_sample: {match[2] or 1}}}"
        keys.append(f"schedule_jump_params={jumps}")
    return keys


def answer(method: str, places: Sequence[Place], engine: Engine | None) -> Answer:
    """Fill all places by a baseline, or by the engine. Raises PictureError if a picture fails."""
    if engine is None:
        begin = time.monotonic()
        filled = [BASELINES[method](place.truth, place.keep) for place in tqdm(places, desc=method)]
        return Answer(method, filled, (time.monotonic() - begin) / len(places))
    results: dict[str, Result] = {}
    batches = -(-len(places) // engine.config.data.batch_size)
    names, truths, keeps = zip(*((place.name, place.truth, place.keep) for place in places), strict=True)
    with tqdm(total=batches * engine.evaluations, desc=method, unit="step") as bar:
        for event in engine.fill(names, truths, keeps):
            if isinstance(event, Progress):
                bar.update()
            else:
                results[event.name] = event
    pictures = [_picture(results[name]) for name in names]
    seconds = sum(result.seconds for result in results.values()) / len(places)
    return Answer(method, pictures, seconds, engine.evaluations)


def _picture(result: Result) -> np.ndarray:
    if result.filled is None:
        raise PictureError(f"{result.name}: {result.error}")
    return result.filled


Scores = dict[str, dict[str, list[float]]]  # method -> column -> one value per place


def score(places: Sequence[Place], answers: Sequence[Answer]) -> Scores:
    """Every measure of every fill."""
    return {
        a.method: {
            column.key: [column.measure(x, place) for x, place in zip(a.pictures, places, strict=True)]
            for column in COLUMNS
        }
        for a in answers
    }


def table(answers: Sequence[Answer], scores: Scores) -> list[str]:
    """Markdown: a row per method; each cell is the mean or median over places and its 90 % interval."""
    titles = [f"{c.title} ({'median' if c.statistic is np.median else 'mean'})" for c in COLUMNS]
    head = ["method", *titles, "evaluations", "seconds / picture"]
    lines = [_row(head), _row(["---"] * len(head))]
    for a in answers:
        cells = [column.cell(scores[a.method][column.key]) for column in COLUMNS]
        lines.append(_row([a.method, *cells, str(a.evaluations), f"{a.seconds:.2g}"]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def verdicts(scores: Scores) -> list[str]:
    """What the prior is held to, one line each, for the repaint that resamples most."""
    resampled = sorted((m for m in scores if m.startswith("repaint-")), key=lambda m: int(m[8:]))
    if not resampled:
        return []
    best = resampled[-1]
    lines = [_compared(scores, best, other) for other in (*BASELINES, *resampled[:-1]) if other in scores]
    ratios = scores[best]["texture"]
    low, high = metrics.bootstrap(ratios, np.median)
    within = "yes" if TEXTURE[0] <= np.median(ratios) <= TEXTURE[1] else "no"
    lines.append(
        f"- texture, hole / outside, of {best} within {TEXTURE[0]} to {TEXTURE[1]}: **{within}** "
        f"({np.median(ratios):.2f} [{low:.2f}, {high:.2f}])"
    )
    return lines


def _compared(scores: Scores, method: str, other: str) -> str:
    """Ring mismatch of two methods, place by place: unclear if the interval of the difference holds 0."""
    difference = np.subtract(scores[method]["ring"], scores[other]["ring"])
    low, high = metrics.bootstrap(difference.tolist())
    told = "yes" if high < 0 else "no" if low > 0 else "unclear"
    share = (difference < 0).mean()
    return (
        f"- ring mismatch of {method} lower than of {other}: **{told}** "
        f"({difference.mean():+.2f} [{low:+.2f}, {high:+.2f}], lower in {share:.0%} of places)"
    )


def to_csv(places: Sequence[Place], scores: Scores) -> bytes:
    """A line per method and place."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "place", *(column.key for column in COLUMNS)])
    for method, columns in scores.items():
        for place, *values in zip((p.name for p in places), *columns.values(), strict=True):
            writer.writerow([method, place, *(f"{value:.6g}" for value in values)])
    return text.getvalue().encode()


def sheet(places: Sequence[Place], answers: Sequence[Answer]) -> np.ndarray:
    """masked | fills | truth of the first places."""
    shown = [a for a in answers if a.method in ON_SHEET]
    rows = [
        [place.truth * place.keep[..., None], *(a.pictures[i] for a in shown), place.truth]
        for i, place in enumerate(places[:SHEET_ROWS])
    ]
    return contact_sheet(
        rows, ["masked", *(a.method for a in shown), "truth"], None, 2 * places[0].truth.shape[0]
    )


def report(title: Sequence[str], answers: Sequence[Answer], scores: Scores) -> str:
    """The whole markdown file."""
    return "\n".join([*title, "", *table(answers, scores), "", *verdicts(scores)]) + "\n"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m guided_diffusion.judge", description="Judge a prior on fresh procedural scenes."
    )
    add = parser.add_argument
    add("--conf_path", required=True, help="a YAML that names the model, such as confs/shadow.yml")
    add("--n", type=int, default=64, help="number of scenes (default 64)")
    add("--kind", choices=sorted(MASK_KINDS), default="thick", help="kind of mask (default thick)")
    add("--seed", type=int, default=FIRST_SEED, help=f"of scenes and masks, from {FIRST_SEED} on")
    add("--methods", default=METHODS, help=f"separated by commas (default {METHODS})")
    add("--steps", type=int, default=100, help="timesteps of each walk (default 100)")
    add("--batch", type=int, default=16, help="pictures at once (default 16)")
    add("--out", default="docs/prior_table.md", help="markdown file to write")
    add("--sheet", default="docs/prior_fills.png", help="contact sheet to write")
    add("--csv", help="also write every picture's scores here")
    add(
        "--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the YAML"
    )
    options = parser.parse_args(arguments)
    if options.n < 1 or options.batch < 1:
        parser.error(f"--n {options.n} --batch {options.batch}: need at least 1 of each")
    if options.seed < FIRST_SEED:
        parser.error(f"--seed {options.seed}: seeds below {FIRST_SEED} belong to training; take a larger one")
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


def describe(options: argparse.Namespace, engine: Engine | None, places: Sequence[Place]) -> list[str]:
    """What was judged, and on what."""
    side, hole = places[0].truth.shape[0], 1 - np.mean([place.keep.mean() for place in places])
    lines = [
        "# The prior against fills that know nothing",
        "",
        f"{len(places)} scenes of {side}x{side} that training never saw (seed {options.seed}), with "
        f"{options.kind} masks that leave {hole:.0%} to fill.",
        "Ratios are best at 1, PSNR (dB) high, all else low; `guided_diffusion/metrics.py` defines them.",
        "In brackets: 90 % bootstrap intervals over scenes.",
    ]
    if engine is not None:
        weights = checkpoints.digest(engine.config.model_path)[:12]
        lines.append(
            f"Weights {Path(engine.config.model_path).name} (SHA-256 {weights}...), "
            f"{options.steps} steps, jump_length {JUMP_LENGTH}, {engine.device.type}, {engine.precision}; "
            "repaint-N: jump_n_sample N."
        )
    return lines


def judge(options: argparse.Namespace) -> str:
    """Fill, score, write the files; returns the report. Raises ConfigError, CheckpointError, PictureError."""
    engines = open_engines(options)
    learned = next((engine for engine in engines.values() if engine is not None), None)
    size = load_config(options.conf_path, options.set).model.image_size
    places = draw_places(options.n, size, options.kind, options.seed)
    answers = [answer(method, places, engine) for method, engine in engines.items()]
    answers.append(Answer("the truth", [place.truth for place in places], 0.0))
    scores = score(places, answers)
    text = report(describe(options, learned, places), answers, scores)
    write_bytes(options.out, text.encode())
    write_picture(options.sheet, sheet(places, answers))
    if options.csv:
        write_bytes(options.csv, to_csv(places, scores))
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit code 2 if the settings, the weights or a picture are wrong."""
    options = parse(arguments)
    try:
        print(judge(options))
    except (ConfigError, CheckpointError, PictureError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
