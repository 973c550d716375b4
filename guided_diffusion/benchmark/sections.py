"""Sections of the benchmark: each measures engines in interleaved rounds and yields tables in Markdown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

import torch

from guided_diffusion import build
from guided_diffusion.benchmark import ranks as rank_runs
from guided_diffusion.benchmark.curves import draw_curves
from guided_diffusion.benchmark.harness import (
    EngineProcess,
    EngineUnavailable,
    Times,
    interleaved,
    start_engines,
)
from guided_diffusion.benchmark.settings import DIFFUSERS, PENUMBRA, REPAINT, Bench
from guided_diffusion.scheduler import PAPER, count_nfe, get_schedule_jump

SCHEDULE = {"t_T": 10, "jump_length": 3, "jump_n_sample": 2}  # of a trajectory
CALLS = 3  # evaluations of a round; the fastest counts
IMAGES = 32  # of a run of the section `ranks`


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def evaluation(engine: EngineProcess, batch: int, side: int, calls: int = CALLS) -> Callable[[], float]:
    """Return a measure of the seconds of one NFE, the fastest of `calls`."""
    return lambda: min(engine.ask("evaluate", batch=batch, side=side, calls=calls)["seconds"])


def network(bench: Bench) -> Iterator[str]:
    """One NFE, compared with RePaint's code and the same weights."""
    rows, side = [], bench.model.image_size
    with ExitStack() as stack:
        engines = start_engines(stack, bench.engines(REPAINT), bench.warn)
        for batch in bench.batches:
            exact = output(bench, engines[0], batch)
            results = interleaved([evaluation(engine, batch, side) for engine in engines], bench.rounds)
            for engine, times in zip(engines, results, strict=True):
                error = ((output(bench, engine, batch) - exact).norm() / exact.norm()).item()
                speeds = *milliseconds(times), *speedups(times, results[0])
                rows.append([batch, engine.name, *speeds, f"{error:.1e}"])
    head = ["batch", "one evaluation", "ms, min", "ms, median", "speed-up, median", "speed-up, min", "error"]
    yield table(head, rows)


def large(bench: Bench) -> Iterator[str]:
    """One evaluation of RePaint's CelebA-HQ network, in two rounds."""
    side, calls = bench.large.image_size, CALLS if bench.on_gpu else 1
    flops = build.flops_per_evaluation(bench.large, (1, 3, side, side))
    with ExitStack() as stack:
        engines = start_engines(stack, bench.engines(REPAINT, large=True), bench.warn)
        results = interleaved([evaluation(engine, 1, side, calls) for engine in engines], rounds=2)
        rate = 1e-9 / seconds_per_flop(engines[-1], bench.precision)
        per_image = list(grow_batch(engines[-1], side, bench.warn)) if bench.on_gpu else []
    rows = [
        [engine.name, f"{times.best:.3g}", f"{flops / times.best / 1e9:.0f}", *speedups(times, results[0])]
        for engine, times in zip(engines, results, strict=True)
    ]
    yield table(["one evaluation", "s, min", "GFLOP/s", "speed-up, median", "speed-up, min"], rows)
    yield f"\nA matrix product in {bench.precision} reaches {rate:.0f} GFLOP/s."
    if per_image:
        nfe, _ = count_nfe(get_schedule_jump(**PAPER))
        costs = [
            [batch, f"{seconds * batch:.3g}", f"{flops / seconds / 1e9:.0f}", f"{seconds * nfe:.1f}"]
            for batch, seconds in per_image
        ]
        head = ["images at once", "s of an evaluation", "GFLOP/s"]
        yield f"\n{engines[-1].name}, {nfe} evaluations by the paper's schedule:\n"
        yield table([*head, "s of an image by the paper's schedule"], costs)


def grow_batch(engine: EngineProcess, side: int, warn: Callable[[str], None]) -> Iterator[tuple[int, float]]:
    """Yield 1, 4, 16, ... images at once, each with the seconds of an evaluation for each image.

    It ends where memory runs out, or where a larger batch is no longer faster for each image.
    """
    batch, before = 1, float("inf")
    while True:
        try:
            [times] = interleaved([evaluation(engine, batch, side)], rounds=2)
        except EngineUnavailable as error:
            warn(f"{batch} images at once: {error}")
            return
        yield batch, times.best / batch
        if times.best / batch > 0.97 * before:
            return
        batch, before = 4 * batch, times.best / batch


def output(bench: Bench, engine: EngineProcess, batch: int) -> torch.Tensor:
    """Return the output of an engine's network, (B, C, H, W)."""
    path = str(bench.folder / "output.pt")
    engine.ask("output", batch=batch, side=bench.model.image_size, path=path)
    return torch.load(path, weights_only=True)


def milliseconds(times: Times) -> tuple[str, str]:
    """Return minimum and median, as text."""
    return f"{times.best * 1e3:.1f}", f"{times.median * 1e3:.1f}"


def speedups(times: Times, first: Times) -> tuple[str, str]:
    """Return the speed-up over the first engine, by rounds and by minima, as text."""
    by_rounds, by_minima = times.speedup_over(first)
    return f"{by_rounds:.2f}", f"{by_minima:.2f}"


def loop(bench: Bench) -> Iterator[str]:
    """One trajectory of RePaint: the time of the same evaluations, and the time beside the network."""
    rows = []
    with ExitStack() as stack:
        engines = start_engines(stack, bench.engines(REPAINT, DIFFUSERS), bench.warn)
        for batch in bench.batches:
            request = {"batch": batch, "side": bench.model.image_size, "schedule": SCHEDULE}
            logs: list[list[dict[str, Any]]] = [[] for _ in engines]
            measures = [
                partial(seconds_per_evaluation, engine, request, entries)
                for engine, entries in zip(engines, logs, strict=True)
            ]
            results = interleaved(measures, bench.rounds)
            for engine, times, entries in zip(engines, results, logs, strict=True):
                name = batch, engine.name, entries[0]["nfe"]
                beside = time_beside_network(entries[1:])  # without the warm-up round
                rows.append([*name, *milliseconds(times), *speedups(times, results[0]), *beside])
    head = ["batch", "one trajectory", "NFE", "ms an evaluation, min", "ms, median", "speed-up, median"]
    yield table([*head, "speed-up, min", "beside the network", "min", "ms an evaluation"], rows)


def time_beside_network(entries: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    """Return median and minimum share of the time beside the network, and its milliseconds an evaluation."""
    shares = [1 - entry["inside"] / entry["seconds"] for entry in entries]
    seconds = [(entry["seconds"] - entry["inside"]) / entry["nfe"] for entry in entries]
    return f"{median(shares):.1%}", f"{min(shares):.1%}", f"{median(seconds) * 1e3:.2f}"


def seconds_per_evaluation(
    engine: EngineProcess, request: Mapping[str, Any], entries: list[dict[str, Any]]
) -> float:
    """Measure one trajectory; append the engine's answer to `entries`."""
    entries.append(engine.ask("trajectory", **request))
    return entries[-1]["seconds"] / entries[-1]["nfe"]


def diffusers(bench: Bench) -> Iterator[str]:
    """One evaluation of diffusers' U-Net of the same widths: another network, so compared per FLOP."""
    rows, batch, side = [], bench.batches[0], bench.model.image_size
    with ExitStack() as stack:
        engines = start_engines(stack, bench.engines(DIFFUSERS, REPAINT), bench.warn)
        results = interleaved([evaluation(engine, batch, side) for engine in engines], bench.rounds)
        same = build.flops_per_evaluation(bench.model, (batch, 3, side, side))
        work = [
            engine.ask("flops", batch=batch, side=side)["flops"] if engine.name == DIFFUSERS else same
            for engine in engines
        ]
        per_flop = [
            Times(tuple(seconds / flops for seconds in times.rounds))
            for times, flops in zip(results, work, strict=True)
        ]
        for engine, times, flops, rate in zip(engines, results, work, per_flop, strict=True):
            speeds = [f"{flops / 1e9:.2f}", f"{1e-9 / rate.best:.0f}", *speedups(rate, per_flop[0])]
            rows.append([batch, engine.name, *milliseconds(times), *speeds])
    head = ["batch", "one evaluation", "ms, min", "ms, median", "GFLOP", "GFLOP/s"]
    yield table([*head, "speed-up per FLOP, median", "speed-up, min"], rows)


def linear(bench: Bench) -> Iterator[str]:
    """The time of a trajectory as its NFE, images and pixels grow."""
    side = bench.model.image_size
    plain = {"jump_length": 1, "jump_n_sample": 1}
    curves: dict[str, list[tuple[int, dict[str, Any]]]] = {
        "NFE": [(n, {"schedule": {"t_T": n, **plain}}) for n in (5, 10, 20, 40)],
        "images at once": [(n, {"batch": n}) for n in (1, 2, 4, 8)],
        "pixels": [((n * side // 2) ** 2, {"side": n * side // 2}) for n in (2, 3, 4, 6)],
    }
    default = {"batch": 1, "side": side, "schedule": {"t_T": 5, **plain}}
    rows = []
    measured: dict[str, list[tuple[int, float]]] = {}
    with EngineProcess(PENUMBRA, bench.options("penumbra", bench.precision)) as engine:
        for name, points in curves.items():
            measures = [partial(trajectory_seconds, engine, {**default, **changed}) for _, changed in points]
            results = interleaved(measures, bench.rounds)
            first = results[0].best / points[0][0]
            measured[name] = [
                (amount, times.best) for (amount, _), times in zip(points, results, strict=True)
            ]
            rows += [
                [name, amount, f"{seconds:.3f}", f"{seconds / amount / first:.2f}"]
                for amount, seconds in measured[name]
            ]
    yield table(["trajectory by", "amount", "s, min", "per unit, relative to the first row"], rows)
    if bench.plot:
        try:
            draw_curves(measured, bench.plot)
        except ImportError:
            bench.warn("The plot needs matplotlib: pip install 'penumbra[plot]'")


def trajectory_seconds(engine: EngineProcess, request: Mapping[str, Any]) -> float:
    """Measure the seconds of one trajectory."""
    return engine.ask("trajectory", **request)["seconds"]


def memory(bench: Bench) -> Iterator[str]:
    """Memory that a large network needs beside its weights, in the precision it runs in."""
    with EngineProcess(PENUMBRA, bench.options("penumbra", bench.precision, large=True)) as engine:
        loaded = engine.ask("memory")
        seconds = engine.ask("evaluate", batch=1, side=bench.large.image_size, calls=1)["seconds"]
        run = engine.ask("memory")
    rows = [
        [
            name,
            f"{(state['peak'] - state['empty']) / 1e9:.2f}",
            f"{(state['peak'] - state['empty']) / state['weights']:.2f}",
        ]
        for name, state in (("loading", loaded), ("loading and one evaluation", run))
    ]
    weights = f"{run['weights'] / 1e9:.2f} GB of weights in {bench.precision}"
    yield f"{weights}; the first evaluation takes {seconds[0]:.1f} s."
    yield table(["peak of resident memory", "GB above an empty process", "relative to the weights"], rows)


def roofline(bench: Bench) -> Iterator[str]:
    """The network's FLOP/s as a share of the device's rate of matrix products."""
    rows, side = [], bench.model.image_size
    for precision in dict.fromkeys(["fp32", bench.precision]):
        with EngineProcess(PENUMBRA, bench.options("penumbra", precision, compile=True)) as engine:
            for batch in bench.batches:
                flops = build.flops_per_evaluation(bench.model, (batch, 3, side, side))
                product = partial(seconds_per_flop, engine, precision)
                ceiling, times = interleaved([product, evaluation(engine, batch, side)], bench.rounds)
                best, reached = 1e-9 / ceiling.best, flops / times.best / 1e9
                rows.append([batch, precision, f"{best:.0f}", f"{reached:.0f}", f"{reached / best:.0%}"])
    yield table(["batch", "precision", "GFLOP/s of matrix products", "of the network", "share"], rows)


def seconds_per_flop(engine: EngineProcess, precision: str) -> float:
    """Measure the seconds of a floating-point operation in a matrix product."""
    return 1 / engine.ask("matrix_rate", precision=precision)["rate"]


def ranks(bench: Bench) -> Iterator[str]:
    """A folder of images by one process, and by ranks of torchrun that share it, one thread each."""
    available = torch.cuda.device_count() if bench.on_gpu else len(os.sched_getaffinity(0))
    counts = [count for count in (1, 2, 4) if count <= available or not bench.on_gpu]
    weights, device = bench.options("penumbra")["weights"], torch.device(bench.device).type
    runs = rank_runs.Runs(bench.folder, bench.model, weights, device)
    rows = rank_runs.compare(runs, IMAGES, counts, available)
    head = ["ranks", "GPUs" if bench.on_gpu else "cores", "s, min", "images/s"]
    yield table([*head, "rate of each, relative to one process", "same bytes"], rows)


SECTIONS: Mapping[str, Callable[[Bench], Iterator[str]]] = {
    section.__name__: section
    for section in (network, large, loop, diffusers, linear, memory, roofline, ranks)
}


def run(bench: Bench, names: Sequence[str]) -> Iterator[str]:
    """Yield titles and tables as they are done; warn of a section that does not run here, and go on."""
    for name in names:
        yield f"## {name}\n\n{SECTIONS[name].__doc__}"
        try:
            yield from SECTIONS[name](bench)
        except EngineUnavailable as error:
            bench.warn(str(error))
