"""Contenders, each in its own process, timed in turn; medians and minima of the rounds."""

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

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker.py")


class Absent(Exception):
    """An engine that does not run here; the text says why, in one line."""


class Contender:
    """A process that runs one engine, as `worker.Options` say. Raises Absent if it does not run here."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self.name = name
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        try:
            self._send(options)
        except Absent:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """What the worker's method answers. Raises Absent where it cannot."""
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
            raise Absent(f"{self.name} does not run here: {reply['error']}")
        return reply

    def close(self) -> None:
        self.process.communicate()

    def __enter__(self) -> Contender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def contenders(
    stack: ExitStack, wanted: Mapping[str, Mapping[str, Any]], tell: Callable[[str], None]
) -> list[Contender]:
    """Those of name -> options that run here, until the stack is closed; `tell` hears of the others."""
    found = []
    for name, options in wanted.items():
        try:
            found.append(stack.enter_context(Contender(name, options)))
        except Absent as error:
            tell(str(error))
    return found


@dataclass(frozen=True)
class Times:
    """Seconds of one contender, a value per round."""

    rounds: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.rounds)

    @property
    def median(self) -> float:
        return median(self.rounds)

    def faster_than(self, other: Times) -> tuple[float, float]:
        """How often it fits into the other's time: the median over the rounds, and that of the minima."""
        each = [b / a for a, b in zip(self.rounds, other.rounds, strict=True)]
        return median(each), other.best / self.best


def in_turn(measure: Sequence[Callable[[], float]], rounds: int) -> list[Times]:
    """Every measure once per round, in turn, after a round that does not count: a machine that slows down
    slows all of them."""
    for each in measure:
        each()
    taken = [tuple(each() for each in measure) for _ in range(rounds)]
    return [Times(times) for times in zip(*taken, strict=True)]
