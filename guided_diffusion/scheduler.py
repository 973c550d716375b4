"""The order in which timesteps are visited: RePaint's walk down with jumps back up.

A walk is a list of indices into the respaced process, from t_T - 1 to -1: down in steps of one, each one
evaluation of the network, and up, which adds noise. Lugmayr et al., "RePaint", CVPR 2022, section 4.2.
Run as a script it prints the cost of a walk and plots it.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

PAPER = {"t_T": 250, "n_sample": 1, "jump_length": 10, "jump_n_sample": 10}
NEVER_HELD_BACK = 100_000_000


def get_schedule_jump(
    t_T: int,
    n_sample: int,
    jump_length: int,
    jump_n_sample: int,
    jump2_length: int = 1,
    jump2_n_sample: int = 1,
    jump3_length: int = 1,
    jump3_n_sample: int = 1,
    start_resampling: int = NEVER_HELD_BACK,
) -> list[int]:
    """The walk as a list of timesteps, t_T - 1 first and -1 last.

    t_T: number of steps of the walk. n_sample: times that each single step is done.
    jump_length, jump_n_sample: at every multiple of jump_length the walk goes jump_length back up, until that
    stretch was done jump_n_sample times. jump2_* and jump3_* nest shorter jumps inside the longer ones, which
    start afresh after each longer jump. start_resampling: no repetition reaches above this timestep.
    The values are taken as they are; `check_schedule` tells which make no sense.
    """
    kinds = ((jump_length, jump_n_sample), (jump2_length, jump2_n_sample), (jump3_length, jump3_n_sample))
    jumps_left = [_jumps(t_T, *kind) for kind in kinds]
    times: list[int] = []
    t = t_T
    while t > 0:
        t -= 1
        times.append(t)
        if t < t_T - 2 and t <= start_resampling:
            times += [t + 1, t] * (n_sample - 1)
        for kind in (2, 1, 0):
            length = kinds[kind][0]
            if jumps_left[kind].get(t, 0) > 0 and t <= start_resampling - length:
                jumps_left[kind][t] -= 1
                times += range(t + 1, t + length + 1)
                t += length
                jumps_left[kind + 1 :] = [_jumps(t_T, *finer) for finer in kinds[kind + 1 :]]
    return [*times, -1]


def _jumps(t_T: int, length: int, n_sample: int) -> dict[int, int]:
    """How often a jump of this kind starts at each timestep: none may reach above t_T - 1."""
    return dict.fromkeys(range(0, t_T - length, length), n_sample - 1)


def merge_jumps(times: Sequence[int]) -> list[int]:
    """The walk with each run of steps back up as one jump: the turning points of what goes up stay."""
    inner = range(1, len(times) - 1)
    turns = [times[i] for i in inner if not times[i - 1] < times[i] < times[i + 1]]
    return [*times[:1], *turns, *times[1:][-1:]]


def count_nfe(times: Sequence[int]) -> tuple[int, int]:
    """Steps down (network evaluations) and steps up (noise only) of a walk."""
    down = sum(t_next < t for t, t_next in pairwise(times))
    return down, len(times) - 1 - down


def check_schedule(
    steps: int | None = None, start_resampling: int = NEVER_HELD_BACK, **schedule: int
) -> None:
    """Raise a ValueError of one line for a schedule that cannot be walked or would silently not resample.

    schedule: arguments of `get_schedule_jump`. steps: number of steps of the respaced process, where known.
    """
    for key, value in schedule.items():
        if value < 1:
            raise ValueError(f"{key} is {value}; it must be at least 1")
    t_T = schedule["t_T"]
    if steps is not None and t_T > steps:
        raise ValueError(
            f"t_T {t_T} is beyond the {steps} steps of the respaced process; "
            f"set t_T to {steps} or less, or raise timestep_respacing"
        )
    for kind in ("jump", "jump2", "jump3"):
        length, n_sample = schedule.get(f"{kind}_length", 1), schedule.get(f"{kind}_n_sample", 1)
        if n_sample > 1 and length >= t_T:
            raise ValueError(
                f"{kind}_length {length} leaves no room for a jump in t_T {t_T}; "
                f"set {kind}_length below {t_T}, or {kind}_n_sample to 1"
            )
        if n_sample > 1 and length > start_resampling:
            raise ValueError(
                f"start_resampling {start_resampling} leaves no room for a jump of {kind}_length {length}; "
                f"set start_resampling to {length} or more, or {kind}_n_sample to 1"
            )


@dataclass(frozen=True)
class JumpSchedule:
    """The YAML's schedule_jump_params. t_T None = every step of the respaced process.

    merge_jumps: the noise of a whole jump is added at once: the same distribution by fewer draws than the
    published code's.
    """

    t_T: int | None = None
    n_sample: int = 1
    jump_length: int = 1
    jump_n_sample: int = 1
    jump2_length: int = 1
    jump2_n_sample: int = 1
    jump3_length: int = 1
    jump3_n_sample: int = 1
    start_resampling: int | None = None
    merge_jumps: bool = False

    def times(self, steps: int) -> list[int]:
        """The walk for a respaced process of `steps` steps. Raises ValueError as `check_schedule` does."""
        given = {
            key: value for key, value in vars(self).items() if value is not None and key != "merge_jumps"
        }
        arguments = {"t_T": steps, **given}
        check_schedule(steps, **arguments)
        times = get_schedule_jump(**arguments)
        return merge_jumps(times) if self.merge_jumps else times


def plot_schedule(times: Sequence[int], path: str) -> None:
    """Draw timestep against transition number into an image file. Needs the extra `plot` (ImportError)."""
    from matplotlib.figure import Figure

    down, up = count_nfe(times)
    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(times, linewidth=0.8)
    axes.set(
        xlabel="transition",
        ylabel="timestep t",
        title=f"{down} network evaluations, {up} steps back up",
        xlim=(0, len(times) - 1),
        ylim=(-1, max(times) + 1),
    )
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _times_of(conf_path: str) -> list[int]:
    # Lazy: the schedule itself must not depend on the configuration, only this script does.
    from guided_diffusion.config.builder import ConfigError, as_mapping, construct
    from guided_diffusion.config.schema import ProcessConfig
    from guided_diffusion.config.yaml_files import read_yaml

    mapping = read_yaml(conf_path)
    if "schedule_jump_params" not in mapping:
        raise ConfigError(f"no schedule_jump_params in {conf_path}: there is no jump schedule to show")
    keys = {f.name for f in fields(ProcessConfig)}
    process = construct(ProcessConfig, {k: v for k, v in mapping.items() if k in keys}, conf_path)
    given = as_mapping(mapping["schedule_jump_params"], conf_path, "schedule_jump_params")
    return construct(JumpSchedule, given, conf_path, "schedule_jump_params").times(process.num_steps)


def main(argv: Sequence[str] | None = None) -> int:
    """Print evaluations and transitions and plot the walk; exit code 2 = wrong config, 1 = plot not made."""
    parser = argparse.ArgumentParser(description="Cost and image of a jump schedule (default: the paper's).")
    parser.add_argument("--conf_path", help="YAML with schedule_jump_params")
    parser.add_argument("--out", default="schedule.png", help="image to write (default: %(default)s)")
    parser.add_argument("--no_plot", action="store_true", help="print the numbers only")
    args = parser.parse_args(argv)
    try:
        times = _times_of(args.conf_path) if args.conf_path else get_schedule_jump(**PAPER)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    down, up = count_nfe(times)
    print(f"{down} evaluations, {up} steps back up, {down + up} transitions")
    if args.no_plot:
        return 0
    try:
        plot_schedule(times, args.out)
    except ImportError:
        print("The plot needs matplotlib: pip install -e '.[plot]'", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"Cannot write the plot {args.out!r}: {error}", file=sys.stderr)
        return 1
    print(args.out)
    return 0


if __name__ == "__main__":
    # As a script, Python looks for modules beside this file first; ours must not hide anyone else's.
    package = Path(__file__).resolve().parent
    sys.path = [str(package.parent), *(p for p in sys.path if not p or Path(p).resolve() != package)]
    sys.exit(main())
