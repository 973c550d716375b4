"""Display of a run at work: log lines and progress bars on the screen, and run.log."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from guided_diffusion.output.results import Progress, one_line
from guided_diffusion.runtime import distributed

log = logging.getLogger("penumbra")
QUIET_SECONDS = 60.0  # without a terminal, a long image reports its step this often


class ScreenHandler(logging.Handler):
    """Prints log lines above the progress bars; warnings and errors go to stderr.

    A rank that does not lead attaches it for errors alone, and each line starts with the rank.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        wrong = record.levelno >= logging.WARNING
        stream = sys.stderr if wrong else sys.stdout
        line = f"{record.levelname.lower()}: {record.getMessage()}" if wrong else record.getMessage()
        line, encoding = distributed.with_rank_prefix(line), stream.encoding or "utf-8"
        tqdm.write(line.encode(encoding, "backslashreplace").decode(encoding), file=stream)
        stream.flush()


def file_handler(folder: str) -> logging.Handler:
    """Return a handler that writes everything, also each image's time, to run.log in the log folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(Path(folder, "run.log"), encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def attach(handler: logging.Handler, stack: ExitStack, level: int) -> None:
    """Attach a handler to the log until the stack is left."""
    handler.setLevel(level)
    log.addHandler(handler)
    stack.callback(handler.close)
    stack.callback(log.removeHandler, handler)


class Display:
    """Progress: two bars on a terminal, elsewhere a line per image, nothing if it is not wanted.

    Args:
        images: number of images.
        steps: network function evaluations (NFE) for each.
        wanted: show it.
    """

    def __init__(self, images: int, steps: int, wanted: bool) -> None:
        terminal = sys.stderr.isatty()
        self.level = logging.INFO if wanted and not terminal else logging.DEBUG  # of lines instead of bars
        hide = not (wanted and terminal)
        self.images = tqdm(total=images, desc="images", unit="image", disable=hide)
        self.steps = tqdm(total=steps, desc="steps", unit="step", leave=False, disable=hide)
        self.last_line = time.monotonic()

    def step(self, progress: Progress) -> None:
        """Show one network function evaluation (NFE)."""
        window = f"window {progress.window} of {progress.windows}" if progress.windows > 1 else ""
        if progress.step == 1 or progress.steps != self.steps.total:
            self.steps.reset(progress.steps)
            self.steps.set_description(window or "steps", refresh=False)
        self.steps.update(progress.step - self.steps.n)
        if time.monotonic() - self.last_line > QUIET_SECONDS:
            self.last_line = time.monotonic()
            position = f"{window}, " if window else ""
            line = f"{one_line(progress.names[0])}: {position}step {progress.step} of {progress.steps}"
            log.log(self.level, line)

    def image(self) -> None:
        """Show that an image is finished."""
        self.images.update()
        self.last_line = time.monotonic()

    def close(self) -> None:
        """Remove the bars."""
        self.steps.close()
        self.images.close()
