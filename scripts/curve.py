#!/usr/bin/env python3
"""Compare quality with NFE: a table and a plot of named settings on the same evaluation cases.

It makes the table and the plot of docs/reports/presets.md:

  OMP_NUM_THREADS=1 .venv/bin/python scripts/curve.py --conf_path confs/shadow.yml --n 12 --seed 3000
  OMP_NUM_THREADS=1 .venv/bin/python scripts/curve.py --conf_path confs/shadow.yml --n 64 --only fast draft \\
      --try "mine timestep_respacing='30' schedule_jump_params.jump_n_sample=4"

A setting is a name and the keys that it overrides. `preset=NAME` stands for the keys of
confs/presets/NAME.yml, `n=8` uses the first 8 cases only. The baselines `nearest` and `harmonic` have no
keys.

Differences to the first setting are paired, over the cases of both. Results are stored in --out: the same
command resumes after an interruption, and an unchanged setting is not computed again. The plot needs the
extra `plot`.
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from guided_diffusion import judge
from guided_diffusion.config import fingerprints
from guided_diffusion.config.yaml_files import read_yaml
from guided_diffusion.engine import Engine, load_config
from guided_diffusion.errors import CheckpointError, ConfigError, ImageError
from guided_diffusion.evaluation.acceptance import Scores
from guided_diffusion.evaluation.bootstrap import bootstrap_by_scene, median_by_scene
from guided_diffusion.evaluation.cases import EvalCase, procedural_cases
from guided_diffusion.evaluation.prior_report import MEASURES, MethodOutput, score_outputs
from guided_diffusion.images.files import write_bytes
from guided_diffusion.images.masks import MASK_KINDS
from guided_diffusion.runtime.memory import tune_malloc

PRESETS = Path(__file__).resolve().parent.parent / "confs/presets"


def jumps(name: str, keys: str, steps: int, length: int = 1, repeats: int = 1) -> str:
    """Write a setting whose name gives its steps, and its jumps if there are any."""
    suffix = f"-{length}-{repeats}" if repeats > 1 else ""
    parameters = {"jump_length": length, "jump_n_sample": repeats, "merge_jumps": "true"}
    schedule = " ".join(f"schedule_jump_params.{key}={value}" for key, value in parameters.items())
    return f"{name}-{steps}{suffix} {keys} timestep_respacing='{steps}' {schedule}"


SETTINGS = [
    "paper preset=paper",
    "fast preset=fast",
    "draft preset=draft",
    jumps("ddpm", "", 100, 10, 5),
    jumps("ddpm", "", 50, 10, 3),
    jumps("ddpm", "", 25, 10, 10),
    jumps("ddpm", "", 25, 10, 5),
    jumps("ddpm", "", 25, 5, 5),
    jumps("ddpm-late", "schedule_jump_params.start_resampling=12", 25, 5, 5),
    jumps("ddpm", "", 20, 5, 5),
    jumps("ddpm", "", 25),
    jumps("ddim", "rule=ddim", 25, 5, 5),
    jumps("ddnm", "method=ddnm", 25, 5, 5),
    jumps("ding", "rule=ding", 100, 10, 2),
    jumps("ding", "rule=ding", 75, 5, 3),
    jumps("ding", "rule=ding", 50, 5, 3),
    jumps("ding", "rule=ding", 50, 10, 2),
    jumps("ding", "rule=ding", 25, 5, 4),
    jumps("ding", "rule=ding", 25),
    jumps("ding", "rule=ding", 50),
    jumps("ding", "rule=ding", 15),
    jumps("ding", "rule=ding", 10),
    jumps("td_paint", "method=td_paint", 50),
    jumps("td_paint", "method=td_paint", 25),
    jumps("td_paint", "method=td_paint", 10),
    "harmonic",
    "nearest",
]
SHOWN = tuple(column for column in MEASURES if column.key in ("lab", "ring", "texture_truth"))
COMPARED = tuple(column for column in SHOWN if not column.median)


@dataclass(frozen=True)
class Setting:
    """A named setting of the sampler."""

    name: str
    words: tuple[str, ...]
    """KEY=VALUE overrides, preset=NAME, n=N"""

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """Read a setting from `NAME KEY=VALUE ...`."""
        name, *words = text.split()
        return cls(judge.OLD_SPELLINGS.get(name, name), tuple(words))

    @property
    def max_cases(self) -> int | None:
        """Number of cases to use; None: all.

        Raises:
            ConfigError: if n= is no positive number.
        """
        values = [word[2:] for word in self.words if word.startswith("n=")]
        if values and not (values[-1].isdecimal() and int(values[-1]) > 0):
            raise ConfigError(f"setting {self.name}: n={values[-1]} is no number of cases; take 1 or more")
        return int(values[-1]) if values else None

    @property
    def keys(self) -> list[str]:
        """Config overrides; by default RePaint with the steps of the paper.

        Raises:
            ConfigError: if a preset does not exist.
        """
        keys = ["task=inpaint", "method=repaint", "rule=ddpm"]
        for word in self.words:
            if word.startswith("preset="):
                preset = read_yaml(PRESETS / f"{word.removeprefix('preset=')}.yml")
                keys += [f"{key}={json.dumps(value)}" for key, value in preset.items()]
            elif not word.startswith("n="):
                keys.append(word)
        return keys


@dataclass(frozen=True)
class Curve:
    """Inpainting of the cases by any setting, with results stored on disk."""

    conf_path: str
    overrides: tuple[str, ...]
    """KEY=VALUE for all settings"""
    kind: str
    """kind of mask"""
    seed: int
    batch: int
    """images at once, and between two saves"""
    out: Path
    """folder of the stored results"""

    def open_engine(self, setting: Setting) -> Engine | None:
        """Open the setting's engine; None for a baseline. Raises ConfigError."""
        if setting.name in judge.BASELINES and not setting.words:
            return None
        keys = [*self.overrides, *setting.keys, f"data.batch_size={self.batch}"]
        return Engine(load_config(self.conf_path, keys))

    def run(self, setting: Setting, engine: Engine | None, cases: Sequence[EvalCase]) -> MethodOutput:
        """Inpaint the setting's cases; images stored by an earlier run are not computed again."""
        cases = cases[: setting.max_cases]
        if engine is None:
            return judge.run_method(setting.name, cases, None)
        path = self.out / f"{setting.name}.npz"
        key = fingerprints.digest([engine.task.fingerprint("inpainted"), self.kind, self.seed])
        stored = read_stored(path, key)
        missing = [case for case in cases if case.name not in stored]
        for start in range(0, len(missing), self.batch):
            batch = missing[start : start + self.batch]
            output = judge.run_method(setting.name, batch, engine)
            stored |= {case.name: image for case, image in zip(batch, output.images, strict=True)}
            stored["seconds"] = np.append(stored.get("seconds", []), [output.seconds] * len(batch))
            file = io.BytesIO()
            np.savez(file, key=np.array(key), **stored)  # type: ignore[arg-type]
            write_bytes(path, file.getvalue())
        images = [stored[case.name] for case in cases]
        return MethodOutput(setting.name, images, float(np.median(stored["seconds"])), engine.nfe)


def read_stored(path: Path, key: str) -> dict[str, np.ndarray]:
    """Read what an earlier run of this key stored: case name -> image, and `seconds` of each; or nothing."""
    if not path.exists():
        return {}
    with np.load(path) as file:
        stored = dict(file)
    return stored if str(stored.pop("key")) == key else {}


def format_difference(scores: Scores, name: str, first: str, key: str, cases: Sequence[EvalCase]) -> str:
    """Format the mean difference to the first setting over the cases of both, with its 90 % interval."""
    n = min(len(scores[name][key]), len(scores[first][key]))
    values = np.subtract(scores[name][key][:n], scores[first][key][:n])
    low, high = bootstrap_by_scene(values.tolist(), [case.scene for case in cases[:n]])
    return f"{values.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def format_table(outputs: Sequence[MethodOutput], scores: Scores, cases: Sequence[EvalCase]) -> str:
    """Format a Markdown table: a row per setting, by decreasing NFE."""
    first = outputs[0].method
    head = ["setting", "cases", "NFE", "seconds / image", *(column.head for column in SHOWN)]
    head += [f"{column.title}, minus {first}'s" for column in COMPARED]
    rows = [head, ["---"] * len(head)]
    for output in sorted(outputs, key=lambda output: -output.nfe):
        columns, n = scores[output.method], len(output.images)
        row = [output.method, str(n), str(output.nfe), f"{output.seconds:.2g}"]
        row += [column.cell(columns[column.key], cases[:n]) for column in SHOWN]
        differences = [format_difference(scores, output.method, first, c.key, cases) for c in COMPARED]
        rows.append(row + (differences if output.method != first else ["-"] * len(differences)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def plot(outputs: Sequence[MethodOutput], scores: Scores, cases: Sequence[EvalCase], path: Path) -> None:
    """Plot a panel per measure: a mark per setting with its 90 % interval, coloured by method.

    Baselines are lines. All settings share the scenes, so differences are more certain than the intervals
    suggest.
    """
    from matplotlib.figure import Figure

    families = list(dict.fromkeys(output.method.split("-")[0] for output in outputs))
    figure = Figure(figsize=(16, 6), layout="constrained")
    for column, axes in zip(SHOWN, figure.subplots(1, len(SHOWN)), strict=True):
        for output in outputs:
            values, n = scores[output.method][column.key], len(output.images)
            middle = float(np.median(values) if column.median else np.mean(values))
            if not output.nfe:
                axes.axhline(middle, color="grey", linestyle=":", linewidth=1)
                across = axes.get_yaxis_transform()
                axes.text(0.99, middle, output.method, transform=across, fontsize=7, ha="right", va="bottom")
                continue
            colour = f"C{families.index(output.method.split('-')[0]) % 10}"
            interval = median_by_scene if column.median else bootstrap_by_scene
            ends = interval(values, [case.scene for case in cases[:n]])
            axes.plot([output.nfe] * 2, ends, color=colour, linewidth=1, alpha=0.25)
            axes.plot(output.nfe, middle, marker="o", color=colour, markersize=5)
            label_at = (output.nfe, middle)
            axes.annotate(output.method, label_at, (4, 3), textcoords="offset points", fontsize=7)
        axes.set(xscale="log", xlabel="NFE per image", ylabel=column.head)
        axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=100)


def choose_settings(only: Sequence[str] | None, tries: Sequence[str]) -> list[Setting]:
    """Choose the built-in settings named in `only` (None: all), then add those of `tries`.

    Raises:
        ConfigError: if a name is unknown or not unique, or nothing is chosen.
    """
    builtin = {setting.name: setting for setting in map(Setting.parse, SETTINGS)}
    names = list(builtin) if only is None else [judge.OLD_SPELLINGS.get(name, name) for name in only]
    unknown = [name for name in names if name not in builtin]
    if unknown:
        raise ConfigError(f"--only {unknown[0]!r} is unknown; choose among {', '.join(builtin)}")
    settings = [builtin[name] for name in names] + [Setting.parse(text) for text in tries]
    if not settings:
        raise ConfigError("no setting is chosen; name some by --only or --try")
    if len({setting.name for setting in settings}) < len(settings):
        raise ConfigError("two settings share a name; give each its own")
    return settings


def draw_curve(options: argparse.Namespace) -> str:
    """Inpaint, score, write curve.md and curve.png; returns the table.

    Raises:
        ConfigError, CheckpointError, ImageError: if a setting, the weights or an image is wrong.
    """
    settings = choose_settings(options.only, options.tries)
    shared = (options.conf_path, tuple(options.set), options.mask, options.seed, options.batch)
    curve = Curve(*shared, options.out)
    engines = [curve.open_engine(setting) for setting in settings]  # fail now rather than after an hour
    size = load_config(options.conf_path, options.set).model.image_size
    cases = procedural_cases(options.n, size, options.mask, options.seed)
    outputs = [curve.run(*pair, cases) for pair in zip(settings, engines, strict=True)]
    scores: Scores = {}
    for output in outputs:
        scores |= score_outputs(cases[: len(output.images)], [output])
    text = format_table(outputs, scores, cases)
    write_bytes(options.out / "curve.md", text.encode())
    plot(outputs, scores, cases, options.out / "curve.png")
    return text


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--conf_path", required=True, help="a YAML that names the model, such as confs/shadow.yml")
    add("--n", type=int, default=24, help="number of cases, procedural images with a hole (default 24)")
    add("--mask", default="thick", choices=MASK_KINDS, help="kind of hole (default thick)")
    add("--seed", type=int, default=judge.FIRST_SEED, help=f"seed of the cases, at least {judge.FIRST_SEED}")
    add("--batch", type=int, default=8, help="images at once, and between two saves (default 8)")
    add(
        "--only",
        nargs="*",
        metavar="NAME",
        help="built-in settings to use, the reference first; may be empty",
    )
    add(
        "--try",
        dest="tries",
        action="extend",
        nargs="+",
        default=[],
        metavar="'NAME KEY=VALUE ...'",
        help="further settings, each in quotes",
    )
    add("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="override keys for all")
    add("--out", type=Path, default=Path("log/curve"), help="folder of results, table and plot (log/curve)")
    options = parser.parse_args()
    if options.n < 1 or options.batch < 1:
        parser.error(f"--n {options.n} --batch {options.batch}: need at least 1 of each")
    if options.seed < judge.FIRST_SEED:
        parser.error(
            f"--seed {options.seed}: seeds below {judge.FIRST_SEED} belong to training; take a larger one"
        )
    if any(not text.split() for text in options.tries):
        parser.error("--try '' has no name; give NAME KEY=VALUE ...")
    return options


def main() -> int:
    """Run the command line; exit code 2 for wrong settings, 1 without matplotlib, 130 if interrupted."""
    options = parse()
    tune_malloc()
    try:
        print(draw_curve(options), end="")
    except ImportError:
        print("The plot needs matplotlib: pip install -e '.[plot]'", file=sys.stderr)
        return 1
    except (ConfigError, CheckpointError, ImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command resumes", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
