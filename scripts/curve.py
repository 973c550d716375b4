#!/usr/bin/env python3
"""Quality against NFE of named settings on the same cases: docs/reports/presets.md, table and plot.

OMP_NUM_THREADS=1 .venv/bin/python scripts/curve.py --conf_path confs/shadow.yml --n 24
OMP_NUM_THREADS=1 .venv/bin/python scripts/curve.py --conf_path confs/shadow.yml --n 64 --only fast draft \\
    --try "mine timestep_respacing='30' schedule_jump_params.jump_n_sample=4"

A setting is a name and the keys that it overrides; `preset=NAME` stands for those of confs/presets/NAME.yml,
`n=8` fills the first 8 places only, and a baseline of the judge has no keys. Differences are place by place
against the first setting, over the places that both filled. Fills lie in --out: the same command goes on
after a stop, and a setting that has not changed is not filled again. The plot needs the extra `plot`.
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
from guided_diffusion.config import schema
from guided_diffusion.config.yaml_files import read_yaml
from guided_diffusion.engine import Engine, load_config
from guided_diffusion.errors import CheckpointError, ConfigError, ImageError
from guided_diffusion.evaluation.acceptance import Scores, median_by_scene
from guided_diffusion.evaluation.cases import Place, draw_places
from guided_diffusion.evaluation.prior_report import MEASURES, Answer, score
from guided_diffusion.evaluation.shadow_metrics import bootstrap_by_scene
from guided_diffusion.images.files import write_bytes
from guided_diffusion.images.masks import MASK_KINDS
from guided_diffusion.runtime.hardware import keep_memory

PRESETS = Path(__file__).resolve().parent.parent / "confs/presets"


def walk(name: str, keys: str, steps: int, length: int = 1, repeats: int = 1) -> str:
    """A setting: its name tells the keys, the steps, and the jumps if there are any."""
    jumps = f"-{length}-{repeats}" if repeats > 1 else ""
    inner = {"jump_length": length, "jump_n_sample": repeats, "merge_jumps": "true"}
    schedule = " ".join(f"schedule_jump_params.{key}={value}" for key, value in inner.items())
    return f"{name}-{steps}{jumps} {keys} timestep_respacing='{steps}' {schedule}"


SETTINGS = [
    "paper preset=paper",
    "fast preset=fast",
    "draft preset=draft",
    walk("ddpm", "", 100, 10, 5),
    walk("ddpm", "", 50, 10, 3),
    walk("ddpm", "", 25, 10, 10),
    walk("ddpm", "", 25, 10, 5),
    walk("ddpm", "", 25, 5, 5),
    walk("ddpm-late", "schedule_jump_params.start_resampling=12", 25, 5, 5),
    walk("ddpm", "", 20, 5, 5),
    walk("ddpm", "", 25),
    walk("ddim", "rule=ddim", 25, 5, 5),
    walk("ddnm", "method=ddnm", 25, 5, 5),
    walk("ding", "rule=ding", 100, 10, 2),
    walk("ding", "rule=ding", 75, 5, 3),
    walk("ding", "rule=ding", 50, 5, 3),
    walk("ding", "rule=ding", 50, 10, 2),
    walk("ding", "rule=ding", 25, 5, 4),
    walk("ding", "rule=ding", 25),
    walk("ding", "rule=ding", 50),
    walk("ding", "rule=ding", 15),
    walk("ding", "rule=ding", 10),
    walk("td_paint", "method=td_paint", 50),
    walk("td_paint", "method=td_paint", 25),
    walk("td_paint", "method=td_paint", 10),
    "membrane",
    "nearest",
]
SHOWN = tuple(column for column in MEASURES if column.key in ("lab", "ring", "texture_truth"))
COMPARED = tuple(column for column in SHOWN if not column.median)


@dataclass(frozen=True)
class Setting:
    """A name and the keys that it overrides."""

    name: str
    words: tuple[str, ...]

    @property
    def most(self) -> int | None:
        """How many places it is to fill, None = all. Raises ConfigError."""
        told = [word[2:] for word in self.words if word.startswith("n=")]
        if told and not (told[-1].isdecimal() and int(told[-1]) > 0):
            raise ConfigError(f"setting {self.name}: n={told[-1]} is no number of places; take 1 or more")
        return int(told[-1]) if told else None

    @property
    def keys(self) -> list[str]:
        """Its overrides: the paper's steps unless it says otherwise. Raises ConfigError."""
        keys = ["method=repaint", "rule=ddpm"]
        for word in self.words:
            if word.startswith("preset="):
                preset = read_yaml(PRESETS / f"{word.removeprefix('preset=')}.yml")
                keys += [f"{key}={json.dumps(value)}" for key, value in preset.items()]
            elif not word.startswith("n="):
                keys.append(word)
        return keys


@dataclass(frozen=True)
class Curve:
    """What was asked for: the YAML with its common overrides, the places, and where fills are kept."""

    conf_path: str
    common: tuple[str, ...]
    kind: str
    seed: int
    batch: int
    out: Path

    def engine(self, setting: Setting) -> Engine | None:
        """None for a baseline. Raises ConfigError."""
        if setting.name in judge.BASELINES and not setting.words:
            return None
        keys = [*self.common, *setting.keys, f"data.batch_size={self.batch}"]
        return Engine(load_config(self.conf_path, keys))

    def fill(self, setting: Setting, engine: Engine | None, places: Sequence[Place]) -> Answer:
        """The setting's fills of its places, made now as far as they are not kept from an earlier run."""
        places = places[: setting.most]
        if engine is None:
            return judge.answer(setting.name, places, None)
        path = self.out / f"{setting.name}.npz"
        key = schema.digest([engine.fingerprint, self.kind, self.seed])
        kept = read_fills(path, key)
        todo = [place for place in places if place.name not in kept]
        for start in range(0, len(todo), self.batch):
            some = todo[start : start + self.batch]
            told = judge.answer(setting.name, some, engine)
            kept |= {place.name: x for place, x in zip(some, told.images, strict=True)}
            kept["seconds"] = np.append(kept.get("seconds", []), [told.seconds] * len(some))
            file = io.BytesIO()
            np.savez(file, key=np.array(key), **kept)
            write_bytes(path, file.getvalue())
        images = [kept[place.name] for place in places]
        return Answer(setting.name, images, float(np.median(kept["seconds"])), engine.nfe)


def read_fills(path: Path, key: str) -> dict[str, np.ndarray]:
    """What an earlier run of this key kept: a place's name -> its fill, and `seconds` of each; or nothing."""
    if not path.exists():
        return {}
    with np.load(path) as file:
        kept = dict(file)
    return kept if str(kept.pop("key")) == key else {}


def difference(scores: Scores, name: str, first: str, key: str, places: Sequence[Place]) -> str:
    """Mean difference to the first setting over the places that both filled, and its 90 % interval."""
    n = min(len(scores[name][key]), len(scores[first][key]))
    values = np.subtract(scores[name][key][:n], scores[first][key][:n])
    low, high = bootstrap_by_scene(values.tolist(), [place.scene for place in places[:n]])
    return f"{values.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def table(answers: Sequence[Answer], scores: Scores, places: Sequence[Place]) -> str:
    """Markdown: a row per setting, those of most evaluations first."""
    first = answers[0].method
    head = ["setting", "places", "evaluations", "seconds / image", *(column.head for column in SHOWN)]
    head += [f"{column.title}, minus {first}'s" for column in COMPARED]
    rows = [head, ["---"] * len(head)]
    for answer in sorted(answers, key=lambda answer: -answer.nfe):
        own, n = scores[answer.method], len(answer.images)
        row = [answer.method, str(n), str(answer.nfe), f"{answer.seconds:.2g}"]
        row += [column.cell(own[column.key], places[:n]) for column in SHOWN]
        rest = [difference(scores, answer.method, first, column.key, places) for column in COMPARED]
        rows.append(row + (rest if answer.method != first else ["-"] * len(rest)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def plot(answers: Sequence[Answer], scores: Scores, places: Sequence[Place], path: Path) -> None:
    """One mark per setting with its 90 % interval, coloured by method, a panel per measure; baselines are
    lines. The intervals are of scenes: settings share them, so that differences are surer than they look."""
    from matplotlib.figure import Figure

    families = list(dict.fromkeys(answer.method.split("-")[0] for answer in answers))
    figure = Figure(figsize=(16, 6), layout="constrained")
    for column, axes in zip(SHOWN, figure.subplots(1, len(SHOWN)), strict=True):
        for answer in answers:
            values, n = scores[answer.method][column.key], len(answer.images)
            middle = float(np.median(values) if column.median else np.mean(values))
            if not answer.nfe:
                axes.axhline(middle, color="grey", linestyle=":", linewidth=1)
                across = axes.get_yaxis_transform()
                axes.text(0.99, middle, answer.method, transform=across, fontsize=7, ha="right", va="bottom")
                continue
            colour = f"C{families.index(answer.method.split('-')[0]) % 10}"
            interval = median_by_scene if column.median else bootstrap_by_scene
            ends = interval(values, [place.scene for place in places[:n]])
            at = answer.nfe
            axes.plot([at, at], ends, color=colour, linewidth=1, alpha=0.25)
            axes.plot(at, middle, marker="o", color=colour, markersize=5)
            axes.annotate(answer.method, (at, middle), (4, 3), textcoords="offset points", fontsize=7)
        axes.set(xscale="log", xlabel="network evaluations of an image", ylabel=column.head)
        axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=100)


def draw(options: argparse.Namespace) -> str:
    """Fills, scores, writes curve.md and curve.png; returns the table. Raises ConfigError and the like."""
    named = {words.split()[0]: Setting(words.split()[0], tuple(words.split()[1:])) for words in SETTINGS}
    unknown = [name for name in options.only or () if name not in named]
    if unknown:
        raise ConfigError(f"--only {unknown[0]!r} is unknown; choose among {', '.join(named)}")
    settings = [named[name] for name in (named if options.only is None else options.only)]
    settings += [Setting(words.split()[0], tuple(words.split()[1:])) for words in options.tries]
    if not settings:
        raise ConfigError("no setting is left to fill with; name some by --only or --try")
    if len({setting.name for setting in settings}) < len(settings):
        raise ConfigError("two settings share a name; give each its own")
    common = (options.conf_path, tuple(options.set), options.mask, options.seed, options.batch)
    curve = Curve(*common, options.out)
    engines = [curve.engine(setting) for setting in settings]  # rather now than after an hour of filling
    size = load_config(options.conf_path, options.set).model.image_size
    places = draw_places(options.n, size, options.mask, options.seed)
    answers = [curve.fill(setting, e, places) for setting, e in zip(settings, engines, strict=True)]
    scores: Scores = {}
    for answer in answers:
        scores |= score(places[: len(answer.images)], [answer])
    text = table(answers, scores, places)
    write_bytes(options.out / "curve.md", text.encode())
    plot(answers, scores, places, options.out / "curve.png")
    return text


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--conf_path", required=True, help="a YAML that names the model, such as confs/shadow.yml")
    add("--n", type=int, default=24, help="places, procedural images with a hole (default 24)")
    add("--mask", default="thick", choices=MASK_KINDS, help="kind of hole (default thick)")
    add("--seed", type=int, default=judge.FIRST_SEED, help=f"of the places, from {judge.FIRST_SEED} on")
    add("--batch", type=int, default=8, help="images at once, and between two saves (default 8)")
    add("--only", nargs="*", metavar="NAME", help="of the built-in settings, the first to compare with first")
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
    add("--out", type=Path, default=Path("log/curve"), help="folder for fills, table and plot")
    options = parser.parse_args()
    if options.n < 1 or options.batch < 1:
        parser.error(f"--n {options.n} --batch {options.batch}: need at least 1 of each")
    if options.seed < judge.FIRST_SEED:
        parser.error(
            f"--seed {options.seed}: seeds below {judge.FIRST_SEED} belong to training; take a larger one"
        )
    if any(not words.split() for words in options.tries):
        parser.error("--try '' has no name; give NAME KEY=VALUE ...")
    return options


def main() -> int:
    options = parse()
    keep_memory()
    try:
        print(draw(options), end="")
    except ImportError:
        print("The plot needs matplotlib: pip install -e '.[plot]'", file=sys.stderr)
        return 1
    except (ConfigError, CheckpointError, ImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
