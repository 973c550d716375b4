"""What is measured: each section asks contenders in turn and gives a table in Markdown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from guided_diffusion import build
from guided_diffusion.benchmark import ranks as several
from guided_diffusion.benchmark.curves import draw_curves
from guided_diffusion.benchmark.harness import Absent, Contender, Times, contenders, in_turn
from guided_diffusion.config.schema import ModelConfig
from guided_diffusion.runtime import hardware
from guided_diffusion.scheduler import PAPER, count_nfe, get_schedule_jump

REFERENCE = ModelConfig(
    image_size=64,
    num_channels=32,
    num_res_blocks=1,
    channel_mult="1,2,2,4",
    attention_resolutions="16,8",
    num_head_channels=32,
)
"""3.8 M weights, 2.8 GFLOP an evaluation; RePaint's code can run it too."""

LARGE = ModelConfig()
"""RePaint's CelebA-HQ network: 256x256, 552.8 M weights."""

SCHEDULE = {"t_T": 10, "jump_length": 3, "jump_n_sample": 2}  # of the walks
CALLS = 3  # evaluations of which a round takes the quickest
PICTURES = 32  # that the ranks share
THEIRS, OURS, DIFFUSERS = "RePaint's code", "ours", "diffusers"


@dataclass(frozen=True)
class Bench:
    """What the sections share. folder: a temporary one; repaint: that of RePaint's code, or None; tell: hears
    in one line of what is left out; plot: an image to be drawn of `linear`, or None."""

    model: ModelConfig
    large: ModelConfig
    folder: Path
    repaint: str | None
    device: str
    threads: int
    rounds: int
    batches: Sequence[int]
    tell: Callable[[str], None]
    plot: str | None = None

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def precision(self) -> str:
        """Of ours, as it chooses it here."""
        return hardware.choose_precision("auto", torch.device(self.device))

    def options(
        self, engine: str, precision: str = "fp32", compile: bool = False, large: bool = False
    ) -> dict[str, Any]:
        """As the worker wants them, with weights on disk that are the same for all."""
        model = self.large if large else self.model
        path = self.folder / ("large.pt" if large else "weights.pt")
        if not path.exists():
            write_weights(model, path, torch.float16 if large else torch.float32)
        shared = {"device": self.device, "threads": self.threads, "place": self.repaint}
        own = {"engine": engine, "precision": precision, "compile": compile}
        return {**shared, **own, "model": asdict(model), "weights": str(path)}

    def all(self, *engines: str, large: bool = False) -> dict[str, dict[str, Any]]:
        """Name -> options: the peers in `engines` that can be tried, then ours from exact to fastest."""
        wanted = {}
        if THEIRS in engines and self.repaint:
            wanted[THEIRS] = self.options("repaint", large=large)
            if self.on_gpu:
                wanted[f"{THEIRS}, fp16"] = self.options("repaint", "fp16", large=large)
        elif THEIRS in engines:
            self.tell(
                "RePaint's code is left out: clone https://github.com/andreas128/RePaint, give --repaint DIR"
            )
        if DIFFUSERS in engines:
            wanted[DIFFUSERS] = self.options("diffusers")
        speeds = [False] if large and not self.on_gpu else [False, True]  # too large to gain there
        for precision in dict.fromkeys(["fp32", self.precision]):
            for compile in speeds:
                name = f"{OURS}, {precision}" + ", compiled" * compile
                wanted[name] = self.options("ours", precision, compile, large)
        return wanted


def write_weights(model: ModelConfig, path: Path, dtype: torch.dtype) -> None:
    """Random weights of a network, none of its layers silent."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in build.build_network(model).state_dict().items()}
    generator, state = torch.Generator().manual_seed(0), {}
    for key, shape in shapes.items():
        draws = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            state[key] = (draws * shape[1:].numel() ** -0.5).to(dtype)
        else:
            state[key] = (draws * 0.05 + key.endswith("weight")).to(dtype)
    torch.save(state, path)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def evaluation(contender: Contender, batch: int, side: int, calls: int = CALLS) -> Callable[[], float]:
    """Measures the seconds of one evaluation, the quickest of `calls`."""
    return lambda: min(contender.ask("evaluate", batch=batch, side=side, calls=calls)["seconds"])


def network(bench: Bench) -> Iterator[str]:
    """One evaluation, against the peer's network with the same weights."""
    rows, side = [], bench.model.image_size
    with ExitStack() as stack:
        found = contenders(stack, bench.all(THEIRS), bench.tell)
        for batch in bench.batches:
            truth = answer(bench, found[0], batch)
            times = in_turn([evaluation(each, batch, side) for each in found], bench.rounds)
            for each, taken in zip(found, times, strict=True):
                error = ((answer(bench, each, batch) - truth).norm() / truth.norm()).item()
                rows.append(
                    [batch, each.name, *milliseconds(taken), *ratios(taken, times[0]), f"{error:.1e}"]
                )
    head = ["batch", "one evaluation", "ms, least", "ms, median", "times as fast", "by minima", "error"]
    yield table(head, rows)


def large(bench: Bench) -> Iterator[str]:
    """One evaluation of RePaint's CelebA-HQ network, in two rounds."""
    side, calls = bench.large.image_size, CALLS if bench.on_gpu else 1
    flops = build.flops_per_evaluation(bench.large, (1, 3, side, side))
    with ExitStack() as stack:
        found = contenders(stack, bench.all(THEIRS, large=True), bench.tell)
        times = in_turn([evaluation(each, 1, side, calls) for each in found], rounds=2)
        product = 1e-9 / flop(found[-1], bench.precision)
        grown = list(batches(found[-1], side, bench.tell)) if bench.on_gpu else []
    rows = [
        [each.name, f"{taken.best:.3g}", f"{flops / taken.best / 1e9:.0f}", *ratios(taken, times[0])]
        for each, taken in zip(found, times, strict=True)
    ]
    yield table(["one evaluation", "s, least", "GFLOP/s", "times as fast", "by minima"], rows)
    yield f"\nA matrix product in {bench.precision} reaches {product:.0f} GFLOP/s."
    if grown:
        nfe, _ = count_nfe(get_schedule_jump(**PAPER))
        costs = [
            [batch, f"{each * batch:.3g}", f"{flops / each / 1e9:.0f}", f"{each * nfe:.1f}"]
            for batch, each in grown
        ]
        head = ["images at once", "s of an evaluation", "GFLOP/s"]
        yield f"\n{found[-1].name}, {nfe} evaluations by the paper's schedule:\n"
        yield table([*head, "s of an image by the paper's schedule"], costs)


def batches(contender: Contender, side: int, tell: Callable[[str], None]) -> Iterator[tuple[int, float]]:
    """1, 4, 16, ... images at once, and the seconds of an evaluation for each image, as long as memory
    holds them and four times as many take an image less time."""
    batch, before = 1, float("inf")
    while True:
        try:
            [taken] = in_turn([evaluation(contender, batch, side)], rounds=2)
        except Absent as error:
            tell(f"{batch} images at once: {error}")
            return
        yield batch, taken.best / batch
        if taken.best / batch > 0.97 * before:
            return
        batch, before = 4 * batch, taken.best / batch


def answer(bench: Bench, contender: Contender, batch: int) -> torch.Tensor:
    """What its network says, (B, C, H, W)."""
    path = str(bench.folder / "answer.pt")
    contender.ask("answer", batch=batch, side=bench.model.image_size, path=path)
    return torch.load(path, weights_only=True)


def milliseconds(times: Times) -> tuple[str, str]:
    return f"{times.best * 1e3:.1f}", f"{times.median * 1e3:.1f}"


def ratios(times: Times, first: Times) -> tuple[str, str]:
    by_rounds, by_minima = times.faster_than(first)
    return f"{by_rounds:.2f}", f"{by_minima:.2f}"


def loop(bench: Bench) -> Iterator[str]:
    """A whole walk of RePaint's: the same evaluations, and what is spent beside the network."""
    rows = []
    with ExitStack() as stack:
        found = contenders(stack, bench.all(THEIRS, DIFFUSERS), bench.tell)
        for batch in bench.batches:
            asked = {"batch": batch, "side": bench.model.image_size, "schedule": SCHEDULE}
            walks: list[list[dict[str, Any]]] = [[] for _ in found]
            measures = [partial(walk, each, asked, told) for each, told in zip(found, walks, strict=True)]
            times = in_turn(measures, bench.rounds)
            for each, taken, told in zip(found, times, walks, strict=True):
                counted = told[1:]  # of the rounds that count
                shares = [1 - one["inside"] / one["seconds"] for one in counted]
                spent = [(one["seconds"] - one["inside"]) / one["evaluations"] for one in counted]
                beside = [f"{median(shares):.1%}", f"{min(shares):.1%}", f"{median(spent) * 1e3:.2f}"]
                name = batch, each.name, told[0]["evaluations"]
                rows.append([*name, *milliseconds(taken), *ratios(taken, times[0]), *beside])
    head = ["batch", "a walk", "evaluations", "ms each, least", "ms each, median", "times as fast"]
    yield table([*head, "by minima", "beside the network", "least", "ms each"], rows)


def walk(contender: Contender, asked: Mapping[str, Any], told: list[dict[str, Any]]) -> float:
    """Seconds of one walk for each of its evaluations; what the contender says of it goes into `told`."""
    told.append(contender.ask("walk", **asked))
    return told[-1]["seconds"] / told[-1]["evaluations"]


def diffusers(bench: Bench) -> Iterator[str]:
    """One evaluation of diffusers' U-Net of the same widths: another network, so by its arithmetic."""
    rows, batch, side = [], bench.batches[0], bench.model.image_size
    with ExitStack() as stack:
        found = contenders(stack, bench.all(DIFFUSERS, THEIRS), bench.tell)
        times = in_turn([evaluation(each, batch, side) for each in found], bench.rounds)
        same = build.flops_per_evaluation(bench.model, (batch, 3, side, side))
        work = [
            each.ask("flops", batch=batch, side=side)["flops"] if each.name == DIFFUSERS else same
            for each in found
        ]
        per_flop = [
            Times(tuple(seconds / flops for seconds in taken.rounds))
            for taken, flops in zip(times, work, strict=True)
        ]
        for each, taken, flops, rate in zip(found, times, work, per_flop, strict=True):
            speeds = [f"{flops / 1e9:.2f}", f"{1e-9 / rate.best:.0f}", *ratios(rate, per_flop[0])]
            rows.append([batch, each.name, *milliseconds(taken), *speeds])
    head = ["batch", "one evaluation", "ms, least", "ms, median", "GFLOP", "GFLOP/s"]
    yield table([*head, "times as fast per FLOP", "by minima"], rows)


def linear(bench: Bench) -> Iterator[str]:
    """What a walk costs as its evaluations, images and pixels grow."""
    side = bench.model.image_size
    shorter = {"jump_length": 1, "jump_n_sample": 1}
    curves: dict[str, list[tuple[int, dict[str, Any]]]] = {
        "evaluations": [(n, {"schedule": {"t_T": n, **shorter}}) for n in (5, 10, 20, 40)],
        "images at once": [(n, {"batch": n}) for n in (1, 2, 4, 8)],
        "pixels": [((n * side // 2) ** 2, {"side": n * side // 2}) for n in (2, 3, 4, 6)],
    }
    usual = {"batch": 1, "side": side, "schedule": {"t_T": 5, **shorter}}
    rows = []
    measured: dict[str, list[tuple[int, float]]] = {}
    with Contender(OURS, bench.options("ours", bench.precision)) as ours:
        for what, points in curves.items():
            walks = [partial(whole_walk, ours, {**usual, **changed}) for _, changed in points]
            times = in_turn(walks, bench.rounds)
            first = times[0].best / points[0][0]
            measured[what] = [(amount, taken.best) for (amount, _), taken in zip(points, times, strict=True)]
            for (amount, _), taken in zip(points, times, strict=True):
                rows.append([what, amount, f"{taken.best:.3f}", f"{taken.best / amount / first:.2f}"])
    yield table(["walk by", "how many", "s, least", "for each, against the first row"], rows)
    if bench.plot:
        try:
            draw_curves(measured, bench.plot)
        except ImportError:
            bench.tell("The plot needs matplotlib: pip install -e '.[plot]'")


def whole_walk(contender: Contender, asked: Mapping[str, Any]) -> float:
    """Seconds."""
    return contender.ask("walk", **asked)["seconds"]


def memory(bench: Bench) -> Iterator[str]:
    """What a large network needs beside its weights in the precision it runs in."""
    with Contender(OURS, bench.options("ours", bench.precision, large=True)) as ours:
        loaded = ours.ask("memory")
        seconds = ours.ask("evaluate", batch=1, side=bench.large.image_size, calls=1)["seconds"]
        run = ours.ask("memory")
    rows = [
        [
            what,
            f"{(at['peak'] - at['empty']) / 1e9:.2f}",
            f"{(at['peak'] - at['empty']) / at['weights']:.2f}",
        ]
        for what, at in (("loading", loaded), ("loading and one evaluation", run))
    ]
    weights = f"{run['weights'] / 1e9:.2f} GB of weights in {bench.precision}"
    yield f"{weights}; the first evaluation takes {seconds[0]:.1f} s."
    yield table(["peak of resident memory", "GB above an empty process", "times the weights"], rows)


def roofline(bench: Bench) -> Iterator[str]:
    """How much of the device's rate of matrix products the network reaches."""
    rows, side = [], bench.model.image_size
    for precision in dict.fromkeys(["fp32", bench.precision]):
        with Contender(OURS, bench.options("ours", precision, compile=True)) as ours:
            for batch in bench.batches:
                flops = build.flops_per_evaluation(bench.model, (batch, 3, side, side))
                product = partial(flop, ours, precision)
                ceiling, taken = in_turn([product, evaluation(ours, batch, side)], bench.rounds)
                best, reached = 1e-9 / ceiling.best, flops / taken.best / 1e9
                rows.append([batch, precision, f"{best:.0f}", f"{reached:.0f}", f"{reached / best:.0%}"])
    yield table(["batch", "precision", "GFLOP/s of matrix products", "of the network", "share"], rows)


def flop(contender: Contender, precision: str) -> float:
    """Seconds of a floating-point operation in a matrix product."""
    return 1 / contender.ask("product", precision=precision)["rate"]


def ranks(bench: Bench) -> Iterator[str]:
    """A folder of images by test.py: one process, and ranks under torchrun that share it, a thread each."""
    here = torch.cuda.device_count() if bench.on_gpu else len(os.sched_getaffinity(0))
    counts = [each for each in (1, 2, 4) if each <= here or not bench.on_gpu]
    weights, device = bench.options("ours")["weights"], torch.device(bench.device).type
    runs = several.Runs(bench.folder, bench.model, weights, device)
    rows = several.compare(runs, PICTURES, counts, here)
    head = ["ranks", "GPUs" if bench.on_gpu else "cores", "s, least", "images/s"]
    yield table([*head, "of one process's, for each", "its bytes"], rows)


SECTIONS: Mapping[str, Callable[[Bench], Iterator[str]]] = {
    each.__name__: each for each in (network, large, loop, diffusers, linear, memory, roofline, ranks)
}


def run(bench: Bench, names: Sequence[str]) -> Iterator[str]:
    """Titles and tables as they are done; a section that does not run here is told of and left out."""
    for name in names:
        yield f"## {name}\n\n{SECTIONS[name].__doc__}"
        try:
            yield from SECTIONS[name](bench)
        except Absent as error:
            bench.tell(str(error))
