"""Builds frozen dataclasses from plain mappings, checking every name and type on the way.

The annotations are the schema; there is no second list of keys. No particular configuration is known here.
"""

import math
import types
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from difflib import SequenceMatcher
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from guided_diffusion.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class AtLeast:
    """Lower bound of a number, as in `Annotated[int, AtLeast(1)]`."""

    minimum: float


@dataclass(frozen=True)
class AtMost:
    """Upper bound of a number."""

    maximum: float


Count = Annotated[int, AtLeast(1)]
Index = Annotated[int, AtLeast(0)]
NonNegative = Annotated[float, AtLeast(0)]
Share = Annotated[float, AtLeast(0), AtMost(1)]
# Text such as '32,16,8'; a mapping may also give a list of numbers or one number.
CommaList = Annotated[str, "comma list"]


def construct(cls: type[T], mapping: Mapping[str, Any], where: str = "", path: str = "") -> T:
    """An instance of the frozen dataclass `cls` from a mapping of its fields.

    where: what the mapping was read from, path: dotted key of the mapping in there; both for messages only.
    Checks against the annotations: bool is not int, int is taken for float, numbers are not read out of text;
    understands Literal, `X | Y`, Any, tuple, dict, Mapping, nested dataclasses, bounds and `CommaList`.
    Raises ConfigError for an unknown key (naming the nearest), a missing key, a wrong type or value.
    """
    assert is_dataclass(cls)
    known = {f.name: f for f in fields(cls) if f.init}
    for key in mapping:
        if key not in known:
            raise unknown_key(_dotted(path, key), [_dotted(path, name) for name in known], where)
    hints = get_type_hints(cls, include_extras=True)
    values = {key: _convert(mapping[key], hints[key], where, _dotted(path, key)) for key in mapping}
    for name, known_field in known.items():
        required = known_field.default is MISSING and known_field.default_factory is MISSING
        if required and name not in values:
            raise ConfigError(f"{_dotted(path, name)} is missing{_place(where)}; it has no default")
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{error}{_place(where)}") from None


def unknown_key(key: object, known: Collection[str], where: str = "") -> ConfigError:
    """The error for a key that is not in `known`: it names the nearest one that is."""

    def likeness(name: str) -> float:
        # The last part alone counts too: who writes gt_path at the top level means data.gt_path.
        return max(SequenceMatcher(None, str(key), part).ratio() for part in (name, name.rpartition(".")[2]))

    nearest = f"; the nearest known key is {max(known, key=likeness)!r}" if known else ""
    return ConfigError(f"unknown key {str(key)!r}{_place(where)}{nearest}")


def as_mapping(value: object, where: str, path: str) -> Mapping[str, Any]:
    """The value itself if it is a mapping, else ConfigError."""
    if not isinstance(value, Mapping):
        raise _mismatch(value, "a mapping of keys to values", where, path)
    return value


def plain(value: Any) -> Any:
    """The inverse of `construct`: mappings, lists and scalars that JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _dotted(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _place(where: str) -> str:
    return f" (in {where})" if where else ""


def _mismatch(value: object, wanted: str, where: str, path: str) -> ConfigError:
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return ConfigError(f"{path}: {shown} is not {wanted}{_place(where)}")


def _convert(value: Any, hint: Any, where: str, path: str) -> Any:
    """The value as the annotation wants it, or ConfigError."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is CommaList:
        value, hint = _joined(value), str
    elif origin is Annotated:
        return _bounded(value, hint, where, path)
    if origin in (Union, types.UnionType):
        return _any_of(value, hint, where, path)
    if is_dataclass(hint) and isinstance(hint, type):
        return (
            value if isinstance(value, hint) else construct(hint, as_mapping(value, where, path), where, path)
        )
    if origin is tuple and isinstance(value, list | tuple):
        inner = [args[0]] * len(value) if args[1:] == (...,) else list(args)
        if len(inner) == len(value):
            pairs = zip(value, inner, strict=True)
            return tuple(_convert(v, h, where, f"{path}[{i}]") for i, (v, h) in enumerate(pairs))
    elif _fits(value, hint):
        return float(value) if hint is float else value
    raise _mismatch(value, _wanted(hint), where, path)


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, get_origin(hint) or hint)


def _bounded(value: Any, hint: Any, where: str, path: str) -> Any:
    inner, *bounds = get_args(hint)
    converted = _convert(value, inner, where, path)
    for bound in bounds:
        low, high = isinstance(bound, AtLeast), isinstance(bound, AtMost)
        if (low and converted < bound.minimum) or (high and converted > bound.maximum):
            raise _mismatch(value, _wanted(hint), where, path)
    return converted


def _any_of(value: Any, hint: Any, where: str, path: str) -> Any:
    for option in get_args(hint):
        if isinstance(value, Mapping) and is_dataclass(option):
            return _convert(value, option, where, path)  # a mistake inside is to be named, not the whole
        try:
            return _convert(value, option, where, path)
        except ConfigError:
            continue
    raise _mismatch(value, _wanted(hint), where, path)


def _joined(value: Any) -> Any:
    """A list of numbers, or one number, as the text that a CommaList holds; anything else as it is."""
    numbers = value if isinstance(value, list | tuple) else [value]
    if all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        return ",".join(str(number) for number in numbers)
    return value


def _wanted(hint: Any) -> str:
    """An annotation in the words of a YAML."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_wanted(option) for option in args)
    if origin is Literal:
        return f"one of {', '.join(map(repr, args))}"
    if origin is Annotated:
        bounds = [f"at least {bound.minimum}" for bound in args[1:] if isinstance(bound, AtLeast)]
        bounds += [f"at most {bound.maximum}" for bound in args[1:] if isinstance(bound, AtMost)]
        return " of ".join([_wanted(args[0]), *filter(None, [" and ".join(bounds)])])
    if origin is tuple and args[1:] == (...,):
        return f"a list, each item {_wanted(args[0])}"
    if origin is tuple:
        return f"a list of {len(args)}: {', '.join(_wanted(item) for item in args)}"
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text (in quotes if need be)"}
    return {**names, type(None): "null"}.get(hint, f"a {getattr(origin or hint, '__name__', hint)}")
