"""Jump schedules against lists made by the published code, a closed form, and their rules."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_diffusion import scheduler
from guided_diffusion.scheduler import (
    PAPER,
    JumpSchedule,
    check_schedule,
    count_nfe,
    get_schedule_jump,
    merge_jumps,
)

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = json.loads((ROOT / "tests/golden/jump_schedules.json").read_text())
small = st.integers(1, 4)
schedules = st.fixed_dictionaries(
    {"t_T": st.integers(1, 40), "n_sample": small, "jump_length": st.integers(1, 12), "jump_n_sample": small},
    optional={
        "jump2_length": st.integers(1, 6),
        "jump2_n_sample": st.integers(1, 3),
        "jump3_length": st.integers(1, 3),
        "jump3_n_sample": st.integers(1, 2),
        "start_resampling": st.integers(0, 50),
    },
)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["params"]))
def test_schedule_equals_the_published_lists(case):
    times = get_schedule_jump(**case["params"])
    assert times == case["times"]
    assert count_nfe(times) == (case["n_reverse"], case["n_forward"])


def test_golden_file_is_complete():
    assert len(GOLDEN) == 11
    assert any(case["params"] == PAPER and case["n_reverse"] == 2410 for case in GOLDEN)


@pytest.mark.parametrize(
    ("change", "down"),
    [
        ({"jump_n_sample": 1}, 250),
        ({"jump_n_sample": 5}, 1210),
        ({"jump_n_sample": 20}, 4810),
        ({"jump_length": 5, "jump_n_sample": 15}, 3680),
        ({"jump_length": 1}, 2491),
        ({"n_sample": 10, "jump_n_sample": 1}, 2482),
        ({"start_resampling": 100}, 1150),
        ({"t_T": 100, "jump_n_sample": 5}, 460),
        ({"t_T": 50, "jump_n_sample": 3}, 130),
    ],
)
def test_count_nfe_of_known_schedules(change, down):
    assert count_nfe(get_schedule_jump(**{**PAPER, **change}))[0] == down


@settings(max_examples=150, deadline=None)
@given(schedules)
def test_schedule_goes_in_single_steps_from_first_to_last(schedule):
    times = get_schedule_jump(**schedule)
    assert times[0] == schedule["t_T"] - 1
    assert times[-1] == -1
    assert -1 not in times[:-1]
    assert max(times) == schedule["t_T"] - 1
    assert {abs(t_next - t) for t, t_next in pairwise(times)} == {1}
    down, up = count_nfe(times)
    assert down - up == schedule["t_T"]


@settings(max_examples=150, deadline=None)
@given(schedules)
def test_merge_jumps_drops_only_timesteps_inside_a_jump(schedule):
    """Expanded to single steps it is the schedule again; and no two steps up follow each other."""
    times = get_schedule_jump(**schedule)
    merged = merge_jumps(times)
    filled = merged[:1]
    for t, t_next in pairwise(merged):
        filled += range(t + 1, t_next + 1) if t_next > t else [t_next]
    assert filled == times
    ups = [t_next > t for t, t_next in pairwise(merged)]
    assert not any(up and up_next for up, up_next in pairwise(ups))
    assert count_nfe(merged)[0] == count_nfe(times)[0]


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 120), st.integers(1, 20), st.integers(1, 12))
def test_count_nfe_equals_the_closed_form(t_T, length, n_sample):
    down, _ = count_nfe(get_schedule_jump(t_T, 1, length, n_sample))
    assert down == t_T + (n_sample - 1) * length * len(range(0, t_T - length, length))


@settings(max_examples=100, deadline=None)
@given(schedules)
def test_start_resampling_limits_repetition(schedule):
    held = {"start_resampling": 10, **schedule}
    times = get_schedule_jump(**held)
    above = [t for t in times if t > held["start_resampling"] + 1]
    assert above == sorted(set(above), reverse=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t_T": 0}, "t_T is 0; it must be at least 1"),
        ({"jump2_n_sample": 0}, "jump2_n_sample is 0"),
        ({"jump_length": -3}, "jump_length is -3"),
        ({"jump_length": 250}, "jump_length 250 leaves no room for a jump in t_T 250"),
        ({"jump3_length": 300, "jump3_n_sample": 2}, "jump3_length 300 leaves no room"),
        ({"start_resampling": 9}, "start_resampling 9 leaves no room for a jump of jump_length 10"),
        ({"steps": 100}, "t_T 250 is beyond the 100 steps of the respaced process"),
    ],
)
def test_check_schedule_refuses_nonsense_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_schedule(**{**PAPER, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{}, {"steps": 250}, {"jump_length": 250, "jump_n_sample": 1}, {"t_T": 11}]
)
def test_check_schedule_accepts_a_sound_schedule(change):
    check_schedule(**{**PAPER, **change})


def test_jump_schedule_without_t_T_visits_every_step():
    assert JumpSchedule(jump_length=10, jump_n_sample=10).times(250) == get_schedule_jump(**PAPER)
    assert JumpSchedule().times(3) == [2, 1, 0, -1]
    assert JumpSchedule(t_T=2).times(3) == [1, 0, -1]
    late = JumpSchedule(jump_length=10, jump_n_sample=10, start_resampling=100).times(250)
    assert count_nfe(late)[0] == 1150


def test_jump_schedule_beyond_the_process_is_refused():
    with pytest.raises(ValueError, match="t_T 251 is beyond the 250 steps"):
        JumpSchedule(t_T=251).times(250)


@settings(max_examples=100, deadline=None)
@given(schedules)
def test_check_schedule_accepts_only_schedules_that_resample(schedule):
    try:
        check_schedule(**schedule)
    except ValueError:
        return
    if max(schedule.get(f"{kind}_n_sample", 1) for kind in ("jump", "jump2", "jump3")) > 1:
        assert count_nfe(get_schedule_jump(**schedule))[1] > 0


def test_script_runs_anywhere_and_hides_no_module(tmp_path):
    image = tmp_path / "schedule.png"
    script = ROOT / "guided_diffusion/scheduler.py"
    conf = ROOT / "confs/shadow.yml"
    command = [sys.executable, str(script), "--conf_path", str(conf), "--out", str(image)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("45 network function evaluations, 4 steps back up, 49 transitions")
    assert image.read_bytes().startswith(b"\x89PNG")


def test_main_defaults_to_the_paper(capsys):
    assert scheduler.main(["--no_plot"]) == 0
    assert (
        capsys.readouterr().out == "2410 network function evaluations, 2160 steps back up, 4570 transitions\n"
    )


def test_main_without_matplotlib_prints_numbers_and_names_the_extra(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert scheduler.main(["--out", str(tmp_path / "schedule.png")]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("2410 network function evaluations")
    assert "pip install 'penumbra[plot]'" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x", "no schedule_jump_params"),
        ("schedule_jump_params: {t_T: 300}", "t_T 300 is beyond the 250 steps"),
        ("schedule_jump_params: [10, 10]", "schedule_jump_params: [10, 10] is not a mapping"),
        ("schedule_jump_params: {t_T: 0}", "t_T is 0; it must be at least 1"),
        ("schedule_jump_params: {jump_lenght: 3}", "schedule_jump_params.jump_length"),
    ],
)
def test_main_returns_2_for_a_wrong_configuration(text, message, tmp_path, capsys):
    conf = tmp_path / "wrong.yml"
    conf.write_text(text)
    assert scheduler.main(["--conf_path", str(conf)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_main_reports_a_plot_that_cannot_be_written(tmp_path, capsys):
    assert scheduler.main(["--out", str(tmp_path / "none" / "schedule.png")]) == 1
    assert "Cannot write the plot" in capsys.readouterr().err
