"""From YAML files, their includes and command-line overrides to one plain mapping. Knows no key but two.

The two are `include` and RePaint's `data.eval.<name>`, which must both be settled before files are merged.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from guided_diffusion.config.builder import as_mapping
from guided_diffusion.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Also takes 1e-4 for a number, which YAML 1.1 calls text; refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is given twice; keep one of them", key.start_mark
                )
            seen.add(key.value if isinstance(key.value, str) else id(key))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: str | Path, including: tuple[Path, ...] = ()) -> dict[str, Any]:
    """One YAML merged over those it includes (`include: file` or a list, relative to it; later wins).

    The single dataset of RePaint's `data.eval` becomes `data` itself. Raises ConfigError.
    """
    here = Path(path)
    if here.resolve() in including:
        raise ConfigError(f"{path} includes itself by way of {', '.join(p.name for p in including)}")
    own = one_dataset(as_mapping(_parse(here), str(path), "the file"), str(path))
    includes = own.pop("include", [])
    merged: dict[str, Any] = {}
    for name in includes if isinstance(includes, list) else [includes]:
        if not isinstance(name, str):
            raise ConfigError(f"include: {name!r} is not a file name (in {path})")
        merged = merge(merged, read_yaml(here.parent / name, (*including, here.resolve())))
    return merge(merged, own)


def _parse(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; give a YAML such as confs/shadow.yml"
        ) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}, line {line}: {error.problem} (not valid YAML)") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def one_dataset(mapping: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Lifts `data.eval.<name>` to `data`, and the `paths` in there to the top."""
    if "data" not in mapping:
        return dict(mapping)
    data = dict(as_mapping(mapping["data"], where, "data"))
    if "eval" in data:
        datasets = as_mapping(data.pop("eval"), where, "data.eval")
        if len(datasets) != 1:
            raise ConfigError(
                f"data.eval holds {len(datasets)} datasets ({', '.join(map(str, datasets))}) in {where}; "
                "one run takes exactly one: give each its own YAML"
            )
        for name, dataset in datasets.items():
            data = {**as_mapping(dataset, where, f"data.eval.{name}"), **data}
    if "paths" in data:
        paths = as_mapping(data.pop("paths"), where, "data.paths")
        mapping = merge({"paths": paths}, mapping)
    return {**mapping, "data": data}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`; mappings on both sides are merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def parse_override(text: str) -> dict[str, Any]:
    """The mapping that `key.path=value` stands for; the value is YAML. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not (key.strip() and equals):
        raise ConfigError(f"--set {text!r} is not key=value, e.g. --set seed=1")
    try:
        nested = yaml.load(value, _Loader)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"--set {text!r}: {value!r} is not a YAML value") from None
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return one_dataset(nested, f"--set {text}")
