"""Jump schedules: the order in which RePaint visits timesteps, down with jumps back up.

A schedule is a list of indices into the respaced process, from t_T - 1 to -1. Each step down is a network
function evaluation; each step up adds noise. Paper: Lugmayr et al., "RePaint", CVPR 2022, section 4.2.
Run as a script, this file prints the cost of a schedule and plots it.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

PAPER = {"t_T": 250, "n_sample": 1, "jump_length": 10, "jump_n_sample": 10}
"""Schedule of the RePaint paper."""
NO_LIMIT = 100_000_000
"""Value of start_resampling at which every jump is allowed."""


def get_schedule_jump(
    t_T: int,
    n_sample: int,
    jump_length: int,
    jump_n_sample: int,
    jump2_length: int = 1,
    jump2_n_sample: int = 1,
    jump3_length: int = 1,
    jump3_n_sample: int = 1,
    start_resampling: int = NO_LIMIT,
) -> list[int]:
    """List the timesteps of a schedule, from t_T - 1 to -1.

    The arguments are the fields of `JumpSchedule`. They are not checked here; see `check_schedule`.
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
    """Number of jumps that start at each timestep. No jump reaches above t_T - 1."""
    return dict.fromkeys(range(0, t_T - length, length), n_sample - 1)


def merge_jumps(times: Sequence[int]) -> list[int]:
    """Merge each run of steps up into a single jump from its first to its last timestep."""
    inner = range(1, len(times) - 1)
    turns = [times[i] for i in inner if not times[i - 1] < times[i] < times[i + 1]]
    return [*times[:1], *turns, *times[1:][-1:]]


def count_nfe(times: Sequence[int]) -> tuple[int, int]:
    """Count the steps down (network function evaluations) and the steps up (noise only)."""
    down = sum(t_next < t for t, t_next in pairwise(times))
    return down, len(times) - 1 - down


def check_schedule(steps: int | None = None, start_resampling: int = NO_LIMIT, **schedule: int) -> None:
    """Raise a ValueError of one line for a schedule that is impossible or would silently never jump.

    Args:
        steps: Number of steps of the respaced process; None = not checked.
        schedule: Arguments of `get_schedule_jump`.
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
    """The YAML's schedule_jump_params."""

    t_T: int | None = None
    """Steps of the schedule; `null` = all steps of the respaced process."""
    n_sample: int = 1
    """Number of times that each single step is done."""
    jump_length: int = 1
    """Steps of a jump back up. A jump starts at every multiple of it."""
    jump_n_sample: int = 1
    """Number of times that each stretch of `jump_length` steps is done; 1 = no jumps."""
    jump2_length: int = 1
    """Steps of shorter jumps nested in the jumps above. They start over after each longer jump."""
    jump2_n_sample: int = 1
    """Number of times that each stretch of `jump2_length` steps is done."""
    jump3_length: int = 1
    """Steps of the shortest jumps, nested in both others."""
    jump3_n_sample: int = 1
    """Number of times that each stretch of `jump3_length` steps is done."""
    start_resampling: int | None = None
    """Timestep above which nothing is repeated; `null` = no limit."""
    merge_jumps: bool = False
    """Whether the noise of a whole jump is added at once. The distribution is the same, with fewer random
    draws than in the published code."""

    def times(self, steps: int) -> list[int]:
        """List the timesteps for a respaced process of `steps` steps. Raises ValueError as
        `check_schedule`."""
        given = {
            key: value for key, value in vars(self).items() if value is not None and key != "merge_jumps"
        }
        arguments = {"t_T": steps, **given}
        check_schedule(steps, **arguments)
        times = get_schedule_jump(**arguments)
        return merge_jumps(times) if self.merge_jumps else times


def plot_schedule(times: Sequence[int], path: str) -> None:
    """Plot timestep against transition number into an image file. Raises ImportError without the extra
    `plot`."""
    from matplotlib.figure import Figure

    down, up = count_nfe(times)
    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(times, linewidth=0.8)
    axes.set(
        xlabel="transition",
        ylabel="timestep t",
        title=f"{down} network function evaluations, {up} steps back up",
        xlim=(0, len(times) - 1),
        ylim=(-1, max(times) + 1),
    )
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _load_times(conf_path: str) -> list[int]:
    # Imported here: only the script needs the configuration, the schedule does not.
    from guided_diffusion.config.builder import as_mapping, construct
    from guided_diffusion.config.model import ProcessConfig
    from guided_diffusion.config.yaml_files import read_yaml
    from guided_diffusion.errors import ConfigError

    mapping = read_yaml(conf_path)
    if "schedule_jump_params" not in mapping:
        raise ConfigError(f"no schedule_jump_params in {conf_path}: there is no jump schedule to show")
    keys = {f.name for f in fields(ProcessConfig)}
    process = construct(ProcessConfig, {k: v for k, v in mapping.items() if k in keys}, conf_path)
    given = as_mapping(mapping["schedule_jump_params"], conf_path, "schedule_jump_params")
    return construct(JumpSchedule, given, conf_path, "schedule_jump_params").times(process.num_steps)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the cost of a schedule and plot it. Exit code 2 = wrong configuration, 1 = no plot."""
    parser = argparse.ArgumentParser(
        description="Print the cost of a jump schedule and plot it (default: the RePaint paper's)."
    )
    parser.add_argument("--conf_path", help="YAML with schedule_jump_params")
    parser.add_argument("--out", default="schedule.png", help="image to write (default: %(default)s)")
    parser.add_argument("--no_plot", action="store_true", help="print the numbers only")
    args = parser.parse_args(argv)
    try:
        times = _load_times(args.conf_path) if args.conf_path else get_schedule_jump(**PAPER)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    down, up = count_nfe(times)
    print(f"{down} network function evaluations, {up} steps back up, {down + up} transitions")
    if args.no_plot:
        return 0
    try:
        plot_schedule(times, args.out)
    except ImportError:
        print("The plot needs matplotlib: pip install 'penumbra[plot]'", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"Cannot write the plot {args.out!r}: {error}", file=sys.stderr)
        return 1
    print(args.out)
    return 0


if __name__ == "__main__":
    # A script's folder is first in sys.path; modules of this package must not hide others of the same name.
    package = Path(__file__).resolve().parent
    sys.path = [str(package.parent), *(p for p in sys.path if not p or Path(p).resolve() != package)]
    sys.exit(main())
