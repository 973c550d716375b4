"""Compare the speed of engines side by side: `python -m guided_diffusion.benchmark --repaint DIR`."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from guided_diffusion.benchmark.sections import SECTIONS, run
from guided_diffusion.benchmark.settings import LARGE, REFERENCE, Bench
from guided_diffusion.config.schema import ModelConfig
from guided_diffusion.errors import ConfigError
from guided_diffusion.runtime.distributed import find_device


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m guided_diffusion.benchmark",
        description="Measure this engine and others that do the same, in interleaved rounds, and print "
        "tables in Markdown. Every engine runs in its own process.",
        epilog="Exit code 0: measured; 2: an argument is wrong.",
    )
    add = parser.add_argument
    add("--repaint", metavar="DIR", help="checkout of https://github.com/andreas128/RePaint")
    add("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run (default all)")
    add("--rounds", type=positive, default=7, help="rounds that count (default 7)")
    add("--batch", type=positive, nargs="+", default=[1, 8], help="images at once (default 1 8)")
    add("--device", default="auto", help="auto, cpu or cuda (default auto)")
    add(
        "--threads",
        type=positive,
        default=torch.get_num_threads(),
        help="CPU threads of each process (default torch's); with 1 the clock is the CPU time of the "
        "process, which other programs disturb least",
    )
    add("--plot", metavar="FILE", help="plot the section linear into this image (needs the extra plot)")
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def machine(device: torch.device, threads: int) -> str:
    """Return one line on the machine, for the head of the report."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    extras = torch.cpu.get_capabilities()
    native = [name for name in ("avx512_bf16", "amx_bf16") if extras.get(name)]
    return (
        f"{_processor()}, {os.cpu_count()} cores, threads: {threads}, {', '.join(native) or 'no bf16'}, "
        f"torch {torch.__version__}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def main(
    arguments: Sequence[str] | None = None, model: ModelConfig = REFERENCE, large: ModelConfig = LARGE
) -> int:
    options = parse(arguments)
    if options.repaint and not (Path(options.repaint) / "guided_diffusion").is_dir():
        print(
            f"--repaint {options.repaint} has no folder guided_diffusion; name a checkout of RePaint",
            file=sys.stderr,
        )
        return 2
    try:
        device = find_device(options.device)
    except (ConfigError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(machine(device, options.threads), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            model=model,
            large=large,
            folder=Path(folder),
            repaint=options.repaint,
            device=str(device),
            threads=options.threads,
            rounds=options.rounds,
            batches=options.batch,
            warn=lambda line: print(f"\n{line}", flush=True),
            plot=options.plot,
        )
        for text in run(bench, options.only):
            print(f"\n{text}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
