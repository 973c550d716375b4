"""Noise schedules and respacing against the published tables and against their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_diffusion.respace import get_named_beta_schedule, respaced_betas, space_timesteps
from tests.helpers import stored

GOLDEN = stored.numbers("schedules")
RESPACINGS = sorted({key.split("/")[0] for key in GOLDEN})
WITH_BETAS = [name for name in RESPACINGS if f"{name}/betas" in GOLDEN]


def respacing(name: str) -> str:
    return "" if name == "all" else name


def test_golden_file_is_complete() -> None:
    assert {"all", "50", "250", "ddim50", "10,15,25"} <= set(RESPACINGS)
    assert {"all", "50", "ddim50", "10,15,25"} <= set(WITH_BETAS)


@pytest.mark.parametrize("name", RESPACINGS)
def test_space_timesteps_equals_the_published_tables(name: str) -> None:
    assert space_timesteps(1000, respacing(name)) == GOLDEN[f"{name}/timesteps"].tolist()


@pytest.mark.parametrize("name", WITH_BETAS)
def test_respaced_betas_equal_the_published_tables(name: str) -> None:
    betas = get_named_beta_schedule("linear", 1000)
    respaced = respaced_betas(betas, space_timesteps(1000, respacing(name)))
    assert np.array_equal(respaced, GOLDEN[f"{name}/betas"])


@st.composite
def sections(draw: st.DrawFn) -> tuple[int, list[int]]:
    steps = draw(st.integers(1, 300))
    cuts = draw(st.integers(1, min(steps, 6)))
    size, extra = divmod(steps, cuts)
    return steps, [draw(st.integers(1, size + (i < extra))) for i in range(cuts)]


@settings(deadline=None)
@given(sections())
def test_space_timesteps_gives_each_section_its_count_and_ends(case: tuple[int, list[int]]) -> None:
    steps, counts = case
    timesteps = space_timesteps(steps, counts)
    assert timesteps == space_timesteps(steps, ",".join(map(str, counts)))
    assert len(timesteps) == sum(counts)
    assert all(a < b for a, b in itertools.pairwise(timesteps))
    size, extra = divmod(steps, len(counts))
    start = 0
    for i, count in enumerate(counts):
        length = size + (i < extra)
        inside = [t for t in timesteps if start <= t < start + length]
        assert len(inside) == count
        assert inside[0] == start
        assert count == 1 or inside[-1] == start + length - 1
        stride = (length - 1) / max(count - 1, 1)
        assert all(abs(b - a - stride) <= 1 for a, b in itertools.pairwise(inside))
        start += length


@settings(deadline=None)
@given(steps=st.integers(2, 1000), stride=st.integers(1, 999))
def test_space_timesteps_ddim_takes_every_kth_step(steps: int, stride: int) -> None:
    wanted = len(range(0, steps, min(stride, steps - 1)))
    timesteps = space_timesteps(steps, f"ddim{wanted}")
    assert len(timesteps) == wanted
    assert timesteps[0] == 0 and timesteps[-1] < steps
    assert len({b - a for a, b in itertools.pairwise(timesteps)}) <= 1


def test_space_timesteps_accepts_equivalent_forms() -> None:
    assert space_timesteps(1000, 250) == space_timesteps(1000, "250") == space_timesteps(1000, [250])
    assert space_timesteps(7, "") == space_timesteps(7, []) == list(range(7))


@pytest.mark.parametrize(
    ("steps", "respacing", "message"),
    [
        (100, "101", "section 1 has 100 steps, so it cannot give 101; ask for 1 to 100"),
        (100, "10,51", "section 2 has 50 steps, so it cannot give 51"),
        (100, "0", "cannot give 0"),
        (100, [3, -1], "section 2 has 50 steps, so it cannot give -1"),
        (100, "ten", "'ten' is not understood; write '250', '10,15,25', 'ddim50' or ''"),
        (100, "10,", "'10,' is not understood"),
        (1000, "ddim999", "'ddim999': no whole stride takes that many of 1000 steps"),
        (1000, "ddim", "'ddim': no whole stride"),
        (1000, "ddim0", "'ddim0': no whole stride"),
    ],
)
def test_space_timesteps_refuses_impossible_counts(
    steps: int, respacing: str | list[int], message: str
) -> None:
    with pytest.raises(ValueError) as error:
        space_timesteps(steps, respacing)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@settings(deadline=None)
@given(sections())
def test_respaced_betas_keep_alpha_bar(case: tuple[int, list[int]]) -> None:
    steps, counts = case
    betas = get_named_beta_schedule("cosine", steps)
    timesteps = space_timesteps(steps, counts)
    respaced = respaced_betas(betas, timesteps)
    assert np.allclose(np.cumprod(1 - respaced), np.cumprod(1 - betas)[timesteps], rtol=1e-6, atol=0)
    assert ((respaced > 0) & (respaced < 1)).all()


def test_linear_schedule_is_that_of_ho_et_al() -> None:
    betas = get_named_beta_schedule("linear", 1000)
    assert (betas[0], betas[-1], len(betas)) == (1e-4, 0.02, 1000)
    assert np.allclose(np.diff(betas), (0.02 - 1e-4) / 999)
    coarse = get_named_beta_schedule("linear", 100)  # as much noise in the end
    assert np.log(1 - coarse).sum() == pytest.approx(np.log(1 - betas).sum(), rel=0.1)


def test_cosine_schedule_is_that_of_nichol_and_dhariwal() -> None:
    betas = get_named_beta_schedule("cosine", 1000)
    alpha_bar = np.cumprod(1 - betas)
    for t in (0, 10, 499, 900):

        def f(s: float) -> float:
            return math.cos((s / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

        assert alpha_bar[t] == pytest.approx(f(t + 1) / f(0), rel=1e-9)
    assert betas.max() == 0.999


def test_unknown_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="noise_schedule 'sqrt' is unknown; choose linear or cosine"):
        get_named_beta_schedule("sqrt", 10)
    with pytest.raises(ValueError, match="diffusion_steps 20 is too few for the linear schedule; use 21"):
        get_named_beta_schedule("linear", 20)
    assert get_named_beta_schedule("linear", 21)[-1] < 1
