"""Reports: save a result, and describe it in plain values for the log and for the leader of several ranks."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from guided_diffusion.output.log_folder import LogFolder
from guided_diffusion.output.results import Result, one_line


def save_and_report(result: Result, folder: LogFolder) -> dict[str, Any]:
    """Write a result's images; returns its report. What cannot be written becomes an error of the image."""
    try:
        folder.save(result)
    except OSError as error:
        result = replace(result, error=write_error(error))
        folder.save(result)
    level, line = log_line(result)
    counts = {"failed": int(bool(result.error)), "reused": int(result.reused)}
    return {"name": result.name, "level": level, "line": line, "counts": counts, **folder.report(result.name)}


def write_error(error: Exception) -> str:
    """Say which file or folder cannot be written, and why."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        path = Path(error.filename2 or error.filename)
        path = path.parent if path.name.startswith(".") else path  # a file under its temporary name
        return one_line(f"{path} cannot be written: {error.strerror}")
    return one_line(str(error))


def log_line(result: Result) -> tuple[int, str]:
    """Return level and line for the log; level 0: of no interest where progress bars show as much."""
    name = one_line(result.name)
    if result.error:
        return logging.ERROR, f"{name} failed: {one_line(result.error)}"
    if result.notes:
        return logging.INFO, f"{name}: {result.notes}"
    if not result.computed:
        return logging.DEBUG, f"{name}: finished before"
    nfe = sum(output.nfe for output in result.computed.values())
    seconds = sum(output.seconds for output in result.computed.values())
    return 0, f"{name}: {nfe} NFE in {format_duration(seconds)}"


def format_duration(seconds: float) -> str:
    """Format a duration in the unit that suits it: 9.3 s, 45 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
