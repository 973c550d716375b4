"""Reports: a result is written, and what became of it is put into plain values for the leader."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from guided_diffusion.output.log_folder import LogFolder
from guided_diffusion.output.results import Result, printable


def saved(result: Result, folder: LogFolder) -> dict[str, Any]:
    """What is to be told of a result, now that its images are written."""
    try:
        folder.save(result)
    except OSError as error:
        result = replace(result, error=unwritten(error))
        folder.save(result)
    level, line = told_of(result)
    counts = {"failed": int(bool(result.error)), "kept": int(result.reused)}
    return {"name": result.name, "level": level, "line": line, "counts": counts, **folder.report(result.name)}


def unwritten(error: Exception) -> str:
    """Which place cannot be written, and why; of a file that still has a hidden name, its folder."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        place = Path(error.filename2 or error.filename)
        place = place.parent if place.name.startswith(".") else place
        return printable(f"{place} cannot be written: {error.strerror}")
    return printable(str(error))


def told_of(result: Result) -> tuple[int, str]:
    """Level and line for the log; level 0 is the display's own, of no interest where bars tell as much."""
    name = printable(result.name)
    if result.error:
        return logging.ERROR, f"{name} failed: {printable(result.error)}"
    if result.notes:
        return logging.INFO, f"{name}: {result.notes}"
    if not result.made:
        return logging.DEBUG, f"{name}: finished before"
    each = [result.parts[output] for output in result.made]
    took = duration(sum(part.seconds for part in each))
    return 0, f"{name}: {sum(part.nfe for part in each)} evaluations in {took}"


def duration(seconds: float) -> str:
    """As people say it."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
