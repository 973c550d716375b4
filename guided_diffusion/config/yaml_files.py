"""Read YAML files, their includes and command-line overrides into a single plain mapping.

Only two keys are known here: `include`, and RePaint's `data.eval.<name>`. Both must be resolved before files
are merged.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from guided_diffusion.config.builder import as_mapping
from guided_diffusion.config.shipped import find_yaml
from guided_diffusion.errors import ConfigError


def _keep(mapping: dict[str, Any], where: str) -> dict[str, Any]:
    return mapping


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as a number, which YAML 1.1 calls text. Refuses a key that is given twice."""

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


def read_yaml(
    path: str | Path,
    translate: Callable[[dict[str, Any], str], dict[str, Any]] = _keep,
    including: tuple[Path, ...] = (),
) -> dict[str, Any]:
    """Read a YAML and merge it over the files that it includes.

    `include:` holds a file name or a list of them, relative to the YAML. Later files win over earlier ones,
    and the YAML's own keys win over all. A file that is not there may be the shipped one of that name.
    RePaint's `data.eval.<name>` becomes `data`. Raises ConfigError.

    Args:
        translate: Called with each file's own mapping and its path before files are merged.
        including: Files that are being read, to detect circles.
    """
    here = find_yaml(path)
    if here.resolve() in including:
        raise ConfigError(f"{path} includes itself by way of {', '.join(p.name for p in including)}")
    content = flatten_dataset(as_mapping(_parse(here), str(path), "the file"), str(path))
    includes = content.pop("include", [])
    merged: dict[str, Any] = {}
    for name in includes if isinstance(includes, list) else [includes]:
        if not isinstance(name, str):
            raise ConfigError(f"include: {name!r} is not a file name (in {path})")
        beside = here.parent / name
        included = beside if beside.is_file() else find_yaml(name)
        source = included if included.is_file() else beside
        merged = merge(merged, read_yaml(source, translate, (*including, here.resolve())))
    return merge(merged, translate(content, str(path)))


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


def flatten_dataset(mapping: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Replace `data` by its only dataset, `data.eval.<name>`, and move that dataset's `paths` to the top."""
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
    """Merge `over` over `base`: `over` wins; mappings on both sides are merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        deep = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if deep else value
    return merged


def parse_override(text: str) -> dict[str, Any]:
    """Parse `key.path=value`, whose value is YAML, into a nested mapping. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not (key.strip() and equals):
        raise ConfigError(f"--set {text!r} is not key=value, e.g. --set seed=1")
    try:
        nested = yaml.load(value, _Loader)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"--set {text!r}: {value!r} is not a YAML value") from None
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return flatten_dataset(nested, f"--set {text}")
