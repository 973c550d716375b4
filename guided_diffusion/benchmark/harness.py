"""Engines in processes of their own, measured in interleaved rounds; medians and minima of the rounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

from guided_diffusion.runtime.processes import import_path

WORKER = Path(__file__).with_name("worker.py")


class EngineUnavailable(Exception):
    """An engine that does not run here; the text gives the reason in one line."""


class EngineProcess:
    """A process that runs one engine and answers requests (see worker.py)."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        """Start the process.

        Args:
            name: Label of the engine in tables and messages.
            options: The fields of `worker.Options`.

        Raises:
            EngineUnavailable: The engine does not run here.
        """
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)],  # as a script: RePaint's package has the same name as this one
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": import_path()},
        )
        try:
            self._send(options)
        except EngineUnavailable:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer of a method of `worker.Server`. Raises EngineUnavailable if it fails."""
        return self._send({"do": do, **arguments})

    def _send(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        reply = json.loads(line) if line else {"error": f"its process ended ({self.process.wait()})"}
        if "error" in reply:
            raise EngineUnavailable(f"{self.name} does not run here: {reply['error']}")
        return reply

    def close(self) -> None:
        self.process.communicate()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start_engines(
    stack: ExitStack, engines: Mapping[str, Mapping[str, Any]], warn: Callable[[str], None]
) -> list[EngineProcess]:
    """Start the engines that run here; the stack closes them.

    Args:
        stack: Closes the processes when it is closed.
        engines: Label -> the fields of `worker.Options`.
        warn: Gets one line on each engine that does not run.
    """
    running = []
    for name, options in engines.items():
        try:
            running.append(stack.enter_context(EngineProcess(name, options)))
        except EngineUnavailable as error:
            warn(str(error))
    return running


@dataclass(frozen=True)
class Times:
    """Seconds that one engine took."""

    rounds: tuple[float, ...]
    """Seconds of each round."""

    @property
    def best(self) -> float:
        """The minimum over the rounds."""
        return min(self.rounds)

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return median(self.rounds)

    def speedup_over(self, other: Times) -> tuple[float, float]:
        """Return other time / own time: the median of the rounds' ratios, and the ratio of the minima."""
        ratios = [theirs / ours for ours, theirs in zip(self.rounds, other.rounds, strict=True)]
        return median(ratios), other.best / self.best


def interleaved(measures: Sequence[Callable[[], float]], rounds: int) -> list[Times]:
    """Run every measure once per round, one after another, after a warm-up round that does not count.

    A machine that slows down thus slows all of them.

    Args:
        measures: Each returns the seconds it took.
        rounds: Number of rounds that count.
    """
    for measure in measures:
        measure()
    seconds = [tuple(measure() for measure in measures) for _ in range(rounds)]
    return [Times(times) for times in zip(*seconds, strict=True)]
