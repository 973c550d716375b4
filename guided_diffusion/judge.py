"""Score a prior: `python -m guided_diffusion.judge --conf_path confs/shadow.yml`.

Holes are cut into fresh procedural images, or into windows of photographs. Every method inpaints them. A
table compares the results with the ground truth and with two non-learned baselines (nearest pixel, harmonic
inpainting). The seeds are never those of training.
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
from guided_diffusion.evaluation.baselines import harmonic_inpaint, nearest_inpaint
from guided_diffusion.evaluation.cases import EvalCase, photo_cases, procedural_cases
from guided_diffusion.evaluation.kid import scene_kid
from guided_diffusion.evaluation.prior_report import (
    MaskKindResults,
    MethodOutput,
    draw_sheet,
    format_report,
    score_outputs,
    to_csv,
)
from guided_diffusion.images.files import write_bytes
from guided_diffusion.images.formats import write_image
from guided_diffusion.images.masks import MASK_KINDS
from guided_diffusion.inpainting.task import INPAINTED
from guided_diffusion.output.results import Progress, Result
from guided_diffusion.runtime.memory import tune_malloc

FIRST_SEED = 1000  # smaller seeds are for training
METHODS = "nearest,harmonic,repaint-1,repaint-5,repaint-10,ddpm,ddim,ddnm"
BASELINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "nearest": nearest_inpaint,
    "harmonic": harmonic_inpaint,
}
OLD_SPELLINGS = {"membrane": "harmonic"}  # of --methods
RESAMPLING = {"repaint": ("rule=ddpm",), "ddnm": ()}  # methods with a jump schedule -> their other settings
JUMP_LENGTH = 10  # RePaint's, for every resampling method (docs/reports/prior.md)
EXAMPLES = """\
examples:
  python -m guided_diffusion.judge --conf_path confs/shadow.yml --n 4 --steps 25 --methods nearest,repaint-1
  python -m guided_diffusion.judge --conf_path confs/shadow.yml --n 42 --masks thick,half --images DIR

Exit code 0; 2: the settings, the weights or an image are wrong.
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line (by default that of the process)."""
    parser = argparse.ArgumentParser(
        prog="python -m guided_diffusion.judge",
        description="Compare inpainting methods with one prior, on procedural images or on photographs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--conf_path", required=True, help="a YAML that names the model, such as confs/shadow.yml")
    add("--n", type=int, default=64, help="number of images, or of windows of photographs (default 64)")
    add("--images", metavar="DIR", help="folder of photographs (default: procedural images)")
    add("--masks", default="thick", help=f"comma-separated kinds: {', '.join(MASK_KINDS)} (default thick)")
    add(
        "--seed",
        type=int,
        default=FIRST_SEED,
        help=f"seed of images, windows and masks, at least {FIRST_SEED} (default {FIRST_SEED})",
    )
    add(
        "--methods",
        default=METHODS,
        help=f"comma-separated (default {METHODS}); also td_paint and ddnm-N; -N is jump_n_sample",
    )
    add("--steps", type=int, default=100, help="timesteps of each method (default 100)")
    add("--batch", type=int, default=16, help="images at once (default 16)")
    add("--out", default="log/judge/table.md", help="Markdown file to write (default log/judge/table.md)")
    add("--sheet", default="log/judge/sheet.png", help="contact sheet (default log/judge/sheet.png)")
    add("--csv", metavar="FILE", help="write the scores of every image to this file")
    add(
        "--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the YAML"
    )
    options = parser.parse_args(arguments)
    options.methods = [OLD_SPELLINGS.get(method, method) for method in options.methods.split(",")]
    options.masks = options.masks.split(",")
    if options.n < 1 or options.batch < 1:
        parser.error(f"--n {options.n} --batch {options.batch}: need at least 1 of each")
    if options.seed < FIRST_SEED:
        parser.error(f"--seed {options.seed}: seeds below {FIRST_SEED} belong to training; take a larger one")
    unknown = [kind for kind in options.masks if kind not in MASK_KINDS]
    if unknown:
        parser.error(f"--masks {unknown[0]!r} is unknown; choose among {', '.join(MASK_KINDS)}")
    return options


def method_overrides(method: str, steps: int) -> list[str]:
    """Translate a method such as repaint-10 (jump_n_sample 10), ddnm-5 or ddim to config overrides.

    Args:
        method: name of a learned method.
        steps: number of timesteps.

    Raises:
        ConfigError: if the method is unknown.
    """
    match = re.fullmatch(r"(repaint|ddnm)-([1-9][0-9]*)|ddpm|ddim|ddnm|td_paint", method)
    if match is None:
        raise ConfigError(
            f"method {method!r} is unknown; choose among {METHODS}, td_paint; "
            "repaint-N and ddnm-N resample N times"
        )
    name = match[1] or method
    keys = ["task=inpaint", f"method={name}", f"timestep_respacing='{steps}'"]
    if name in RESAMPLING:
        jumps = f"{{jump_length: {JUMP_LENGTH}, jump_n_sample: {match[2] or 1}}}"
        keys += [*RESAMPLING[name], f"schedule_jump_params={jumps}"]
    return keys


def open_engines(options: argparse.Namespace) -> dict[str, Engine | None]:
    """Open the engine of each method; None for a baseline.

    Raises:
        ConfigError: if a method or a setting is wrong.
    """
    engines: dict[str, Engine | None] = {}
    for method in options.methods:
        if method in BASELINES:
            engines[method] = None
            continue
        keys = [*options.set, *method_overrides(method, options.steps), f"data.batch_size={options.batch}"]
        engines[method] = Engine(load_config(options.conf_path, keys))
    return engines


def run_method(method: str, cases: Sequence[EvalCase], engine: Engine | None) -> MethodOutput:
    """Inpaint all cases by the engine or, without one, by the baseline of that name.

    Raises:
        ImageError: if an image fails.
    """
    if engine is None:
        begin = time.monotonic()
        images = [BASELINES[method](case.ground_truth, case.keep) for case in tqdm(cases, desc=method)]
        return MethodOutput(method, images, (time.monotonic() - begin) / len(cases))
    results: dict[str, Result] = {}
    batches = -(-len(cases) // engine.batch_size)
    names, images, keeps = zip(*((case.name, case.ground_truth, case.keep) for case in cases), strict=True)
    with tqdm(total=batches * engine.nfe, desc=method, unit="step") as bar:
        for event in engine.inpaint_arrays(names, images, keeps):
            if isinstance(event, Progress):
                bar.update()
            else:
                results[event.name] = event
    seconds = sum(output.seconds for result in results.values() for output in result.outputs.values())
    images = [_inpainted(results[name]) for name in names]
    return MethodOutput(method, images, seconds / len(cases), engine.nfe)


def _inpainted(result: Result) -> np.ndarray:
    if result.error:
        raise ImageError(f"{result.name}: {result.error}")
    image = result.outputs[INPAINTED.name].image
    assert image is not None
    return image


def describe(options: argparse.Namespace, engines: Mapping[str, Engine | None], size: int) -> list[str]:
    """Say what was compared, on which images."""
    subject = "procedural images that training never saw"
    if options.images:
        subject = f"windows of the photographs in {Path(options.images).name}"
    lines = [
        "# The prior against non-learned baselines",
        "",
        f"{options.n} {subject}, {size}x{size}, seed {options.seed}.",
        "Ratios are best at 1, PSNR (dB) high, all else low. `guided_diffusion/evaluation/hole_metrics.py` "
        "defines the measures; `structure.py` beside it says when structure crosses a hole.",
        "Scene-feature KID compares sets of images, by features trained here, not Inception's; best at 0.",
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
    for method, engine in engines.items():
        if engine and engine.sampler.needs_per_pixel_time and not engine.config.model.per_pixel_time:
            lines.append(f"{method}: these weights were not trained for it (per_pixel_time).")
    return lines


def judge(options: argparse.Namespace) -> str:
    """Inpaint, score and write the files; returns the report.

    Raises:
        ConfigError, CheckpointError, DatasetError, ImageError: if an input is wrong.
    """
    feature_network.CLASSIFIER.require()  # fail now rather than after an hour of inpainting
    engines = open_engines(options)
    size = load_config(options.conf_path, options.set).model.image_size
    blocks = [run_mask_kind(options, kind, engines, size) for kind in options.masks]
    text = format_report(describe(options, engines, size), blocks)
    write_bytes(options.out, text.encode())
    write_image(options.sheet, draw_sheet(blocks))
    if options.csv:
        write_bytes(options.csv, to_csv(blocks))
    return text


def run_mask_kind(
    options: argparse.Namespace, kind: str, engines: Mapping[str, Engine | None], size: int
) -> MaskKindResults:
    """Inpaint and score the cases of a kind of mask with every method."""
    if options.images:
        cases = photo_cases(options.images, options.n, size, kind, options.seed)
    else:
        cases = procedural_cases(options.n, size, kind, options.seed)
    outputs = [run_method(method, cases, engine) for method, engine in engines.items()]
    ground_truths = [case.ground_truth for case in cases]
    outputs.append(MethodOutput("ground truth", ground_truths, 0.0))
    sets = {output.method: output.images for output in outputs}
    kid = scene_kid(sets, ground_truths, [case.scene for case in cases])
    return MaskKindResults(kind, cases, outputs, score_outputs(cases, outputs), kid)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 2 if the settings, the weights or an image are wrong."""
    options = parse(arguments)
    tune_malloc()
    try:
        print(judge(options))
    except (ConfigError, CheckpointError, DatasetError, ImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
