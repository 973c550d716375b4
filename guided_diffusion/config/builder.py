"""Build frozen dataclasses from plain mappings and check every name and type.

The annotations are the schema; there is no second list of keys. This module knows no particular
configuration.
"""

import math
import types
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from difflib import SequenceMatcher
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from guided_diffusion.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class AtLeast:
    """Lower bound of a number, included: `Annotated[int, AtLeast(1)]`."""

    minimum: float


@dataclass(frozen=True)
class AtMost:
    """Upper bound of a number, included."""

    maximum: float


Count = Annotated[int, AtLeast(1)]
Index = Annotated[int, AtLeast(0)]
NonNegative = Annotated[float, AtLeast(0)]
Share = Annotated[float, AtLeast(0), AtMost(1)]
CommaList = Annotated[str, "comma list"]
"""Text such as '32,16,8'. A mapping may also give a list of numbers or a single number."""


def construct(cls: type[T], mapping: Mapping[str, Any], where: str = "", path: str = "") -> T:
    """Build the frozen dataclass `cls` from a mapping of its fields.

    Values are checked against the annotations. A bool is not an int; an int is accepted as a float; text is
    never parsed as a number. Supported: Literal, `X | Y`, Any, tuple, dict, Mapping, nested dataclasses,
    bounds and `CommaList`.

    Args:
        where: Source of the mapping, for messages only.
        path: Dotted key of the mapping within its source, for messages only.

    Raises ConfigError for an unknown key (it names the nearest one), a missing key, a wrong type or value.
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
            raise ConfigError(f"{_dotted(path, name)} is missing{_in(where)}; it has no default")
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{error}{_in(where)}") from None


def load_flat(
    cls: type[T],
    mapping: Mapping[str, Any],
    where: str = "",
    *,
    flat: Mapping[str, type],
    nested: Mapping[str, type] = types.MappingProxyType({}),
) -> T:
    """Build `cls` from a YAML whose keys are flat although `cls` groups them. Raises ConfigError as
    `construct`.

    Args:
        mapping: The YAML's mapping. Keys that belong to no group are fields of `cls`. A key of several
            classes goes to each.
        flat: Field of `cls` -> its dataclass, whose keys stand at the top level of the YAML.
        nested: Field of `cls` -> its dataclass, whose keys stand in a mapping under the field's name.
    """
    assert is_dataclass(cls)
    groups: dict[str, Any] = {}
    for group, part in flat.items():
        values = {f.name: mapping[f.name] for f in fields(part) if f.name in mapping}
        groups[group] = construct(part, values, where)
    for group, part in nested.items():
        groups[group] = construct(part, as_mapping(mapping.get(group, {}), where, group), where, group)
    in_groups = {f.name for part in flat.values() for f in fields(part)} - {f.name for f in fields(cls)}
    rest = {key: value for key, value in mapping.items() if key not in in_groups}
    return construct(cls, {**rest, **groups}, where)


def flat_keys(
    cls: type, flat: Mapping[str, type], nested: Mapping[str, type] = types.MappingProxyType({})
) -> list[str]:
    """The keys that `load_flat` reads, those of nested groups with dots."""
    keys = [f.name for f in fields(cls) if f.name not in {*flat, *nested}]
    keys += [f.name for part in flat.values() for f in fields(part)]
    return keys + [f"{group}.{f.name}" for group, part in nested.items() for f in fields(part)]


def dotted_keys(mapping: Mapping[str, Any], nested: Collection[str], where: str = "") -> Iterator[str]:
    """The keys of a mapping; for a group in `nested`, the keys inside it with dots. Raises ConfigError."""
    for key, value in mapping.items():
        if key in nested:
            yield from (f"{key}.{inner}" for inner in as_mapping(value, where, key))
        else:
            yield key


def check_keys(
    mapping: Mapping[str, Any],
    known: Collection[str],
    nested: Collection[str] = (),
    where: str = "",
    silent: Collection[str] = (),
) -> None:
    """Raise ConfigError for a key that is neither in `known` nor in `silent`, which no error suggests."""
    for key in dotted_keys(mapping, nested, where):
        if key not in known and key not in silent:
            raise unknown_key(key, known, where)


def unknown_key(key: object, known: Collection[str], where: str = "") -> ConfigError:
    """The error for a key that is not in `known`. It names the nearest known key."""
    hint = f"; the nearest known key is {_nearest(key, known)!r}" if known else ""
    return ConfigError(f"unknown key {str(key)!r}{_in(where)}{hint}")


def check_choice(value: str, known: Collection[str], where: str = "", path: str = "") -> None:
    """Raise ConfigError for a value that is not in `known`. It names the nearest known value."""
    if value not in known:
        choices = ", ".join(map(repr, known))
        hint = f"; the nearest is {_nearest(value, known)!r}" if known else ""
        raise ConfigError(f"{path}: {value!r} is not one of {choices}{hint}{_in(where)}")


def as_mapping(value: object, where: str, path: str) -> Mapping[str, Any]:
    """Return the value if it is a mapping, else raise ConfigError."""
    if not isinstance(value, Mapping):
        raise _mismatch(value, "a mapping of keys to values", where, path)
    return value


def to_plain(value: Any) -> Any:
    """Convert to mappings, lists and scalars that JSON can hold: the inverse of `construct`."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def describe_type(hint: Any) -> str:
    """Describe an annotation in the words of a YAML, such as `an integer of at least 1`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(option) for option in args)
    if origin is Literal:
        return f"one of {', '.join(map(repr, args))}"
    if origin is Annotated:
        bounds = [f"at least {bound.minimum}" for bound in args[1:] if isinstance(bound, AtLeast)]
        bounds += [f"at most {bound.maximum}" for bound in args[1:] if isinstance(bound, AtMost)]
        return " of ".join([describe_type(args[0]), *filter(None, [" and ".join(bounds)])])
    if origin is tuple and args[1:] == (...,):
        return f"a list, each item {describe_type(args[0])}"
    if origin is tuple:
        return f"a list of {len(args)}: {', '.join(describe_type(item) for item in args)}"
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text (in quotes if need be)"}
    return {**names, type(None): "null"}.get(hint, f"a {getattr(origin or hint, '__name__', hint)}")


def _nearest(key: object, known: Collection[str]) -> str:
    def likeness(name: str) -> float:
        # Compare the last part alone too: gt_path at the top level means data.gt_path.
        return max(SequenceMatcher(None, str(key), part).ratio() for part in (name, name.rpartition(".")[2]))

    return max(known, key=likeness)


def _dotted(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _in(where: str) -> str:
    return f" (in {where})" if where else ""


def _mismatch(value: object, wanted: str, where: str, path: str) -> ConfigError:
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return ConfigError(f"{path}: {shown} is not {wanted}{_in(where)}")


def _convert(value: Any, hint: Any, where: str, path: str) -> Any:
    """Return the value in the type of the annotation, or raise ConfigError."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is CommaList:
        value, hint = _join_numbers(value), str
    elif origin is Annotated:
        return _convert_bounded(value, hint, where, path)
    if origin in (Union, types.UnionType):
        return _convert_union(value, hint, where, path)
    if is_dataclass(hint) and isinstance(hint, type):
        return (
            value if isinstance(value, hint) else construct(hint, as_mapping(value, where, path), where, path)
        )
    if origin is tuple and isinstance(value, list | tuple):
        inner = [args[0]] * len(value) if args[1:] == (...,) else list(args)
        if len(inner) == len(value):
            pairs = zip(value, inner, strict=True)
            return tuple(_convert(v, h, where, f"{path}[{i}]") for i, (v, h) in enumerate(pairs))
    elif _is_instance(value, hint):
        return float(value) if hint is float else value
    raise _mismatch(value, describe_type(hint), where, path)


def _is_instance(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, get_origin(hint) or hint)


def _convert_bounded(value: Any, hint: Any, where: str, path: str) -> Any:
    inner, *bounds = get_args(hint)
    converted = _convert(value, inner, where, path)
    for bound in bounds:
        low, high = isinstance(bound, AtLeast), isinstance(bound, AtMost)
        if (low and converted < bound.minimum) or (high and converted > bound.maximum):
            raise _mismatch(value, describe_type(hint), where, path)
    return converted


def _convert_union(value: Any, hint: Any, where: str, path: str) -> Any:
    for option in get_args(hint):
        if isinstance(value, Mapping) and is_dataclass(option):
            return _convert(value, option, where, path)  # the error names the key inside, not the whole
        try:
            return _convert(value, option, where, path)
        except ConfigError:
            continue
    raise _mismatch(value, describe_type(hint), where, path)


def _join_numbers(value: Any) -> Any:
    """Join a list of numbers, or a single number, into the text of a CommaList. Leave anything else alone."""
    numbers = value if isinstance(value, list | tuple) else [value]
    if all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        return ",".join(str(number) for number in numbers)
    return value
