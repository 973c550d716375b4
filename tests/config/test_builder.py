"""Typed construction of dataclasses: accepted values, refused values, error texts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, make_dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.config.builder import (
    CommaList,
    Count,
    NonNegative,
    Share,
    construct,
    to_plain,
)
from guided_diffusion.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    depth: Count = 1


@dataclass(frozen=True)
class Outer:
    needed: int
    rate: float = 1.0
    flag: bool = False
    text: str = ""
    kind: Literal["a", "b"] = "a"
    maybe: int | None = None
    levels: CommaList = ""
    pair: tuple[int, float] = (0, 0.0)
    many: tuple[int, ...] = ()
    share: NonNegative = 0.0
    inner: Inner = Inner()
    perhaps: Inner | None = None
    free: Any = None
    rest: Mapping[str, Any] = field(default_factory=dict)


def build_field(hint, value):
    """The value after construction as the field `x` of a fresh dataclass."""
    return construct(make_dataclass("One", [("x", hint)], frozen=True), {"x": value}).x


@pytest.mark.parametrize(
    ("hint", "value", "result"),
    [
        (float, 3, 3.0),
        (int | None, None, None),
        (int | str, "a", "a"),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[int, float], (1, 2), (1, 2.0)),
        (CommaList, [32, 16], "32,16"),
        (CommaList, 8, "8"),
        (CommaList, [0.5, 1], "0.5,1"),
        (CommaList, "ddim50", "ddim50"),
        (Count | None, 1, 1),
        (Share, 1, 1.0),
        (Inner, {"depth": 2}, Inner(2)),
        (Inner | None, {"depth": 2}, Inner(2)),
        (Inner, Inner(3), Inner(3)),
        (Any, [1, "x"], [1, "x"]),
    ],
)
def test_construct_accepts(hint, value, result):
    got = build_field(hint, value)
    assert got == result
    assert type(got) is type(result)


@pytest.mark.parametrize(
    ("hint", "value", "wanted"),
    [
        (int, True, "x: True is not an integer"),
        (int, "3", "x: '3' is not an integer"),
        (int, 3.0, "x: 3.0 is not an integer"),
        (float, True, "x: True is not a number"),
        (float, float("nan"), "x: nan is not a number"),
        (bool, 1, "x: 1 is not true or false"),
        (str, 3, r"x: 3 is not text \(in quotes"),
        (int | None, "no", "x: 'no' is not an integer or null"),
        (Literal["a", "b"], "c", "x: 'c' is not one of 'a', 'b'"),
        (Literal[1, 2], True, "x: True is not one of 1, 2"),
        (Count, 0, "x: 0 is not an integer of at least 1"),
        (NonNegative, -0.5, "x: -0.5 is not a number of at least 0"),
        (tuple[int, ...], [1, "b"], r"x\[1\]: 'b' is not an integer"),
        (tuple[int, ...], 3, "x: 3 is not a list, each item an integer"),
        (tuple[int, float], [1], r"x: \[1\] is not a list of 2: an integer, a number"),
        (CommaList, [True], r"x: \[True\] is not text"),
        (Inner, 3, "x: 3 is not a mapping"),
        (Inner | None, {"depth": 0}, "x.depth: 0 is not an integer of at least 1"),
        (Mapping[str, Any], [1], r"x: \[1\] is not a Mapping"),
        (Share, 1.01, "1.01 is not a number of at least 0 and at most 1"),
        (Share, -0.5, "-0.5 is not a number of at least 0 and at most 1"),
    ],
)
def test_construct_refuses(hint, value, wanted):
    with pytest.raises(ConfigError, match=wanted) as caught:
        build_field(hint, value)
    assert "\n" not in str(caught.value)


def test_error_names_its_source():
    with pytest.raises(ConfigError, match=r"^inner\.depth: 'x' is not .* \(in a\.yml\)$"):
        construct(Outer, {"needed": 1, "inner": {"depth": "x"}}, "a.yml")


def test_unknown_key_error_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown key 'inner\.dpeth' \(in a\.yml\).* 'inner\.depth'"):
        construct(Outer, {"needed": 1, "inner": {"dpeth": 1}}, "a.yml")


def test_missing_key_error_names_it():
    with pytest.raises(ConfigError, match=r"^needed is missing \(in a\.yml\)"):
        construct(Outer, {}, "a.yml")


def test_error_shortens_a_long_value():
    with pytest.raises(ConfigError) as caught:
        build_field(int, "y" * 10_000)
    assert len(str(caught.value)) < 120


def test_error_of_post_init_names_its_source():
    @dataclass(frozen=True)
    class Picky:
        x: int = 0

        def __post_init__(self) -> None:
            raise ValueError("x is odd")

    with pytest.raises(ConfigError, match=r"^x is odd \(in a\.yml\)$"):
        construct(Picky, {}, "a.yml")


outers = st.builds(
    Outer,
    needed=st.integers(),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    flag=st.booleans(),
    text=st.text(),
    kind=st.sampled_from(["a", "b"]),
    maybe=st.none() | st.integers(),
    pair=st.tuples(st.integers(), st.floats(0, 1)),
    many=st.lists(st.integers()).map(tuple),
    inner=st.builds(Inner, st.integers(1)),
    perhaps=st.none() | st.builds(Inner, st.integers(1)),
    rest=st.dictionaries(st.text(), st.integers()),
)


@given(outers)
def test_to_plain_is_the_inverse_of_construct(outer):
    assert construct(Outer, to_plain(outer)) == outer
    assert construct(Outer, asdict(outer)) == outer


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(list(Outer.__dataclass_fields__)), anything))
def test_construct_never_fails_otherwise_than_in_one_line(mapping):
    try:
        assert isinstance(construct(Outer, {"needed": 1, **mapping}), Outer)
    except ConfigError as error:
        assert "\n" not in str(error)
