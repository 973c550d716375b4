"""Config: all settings of a run, read from a YAML and checked.

The YAML is flat and keeps the key names of guided-diffusion and RePaint; only Python groups them. Every
mistake of the user is a ConfigError of one line that names the key, the value and where it was found.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from guided_diffusion.config.builder import (
    Count,
    Index,
    check_choice,
    check_keys,
    flat_keys,
    load_flat,
    to_plain,
)
from guided_diffusion.config.data import DataConfig, PathsConfig
from guided_diffusion.config.legacy import (
    FLAGS,
    RETIRED,
    apply_flags,
    drop_retired,
    rename_keys,
    translate_method,
)
from guided_diffusion.config.model import ClassifierConfig, ModelConfig, ProcessConfig
from guided_diffusion.config.shadow import RelightConfig
from guided_diffusion.config.types import Compile, Precision, Windows
from guided_diffusion.config.yaml_files import flatten_dataset, merge, parse_override, read_yaml
from guided_diffusion.errors import ConfigError


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    name: str
    """Name of the run. Results go to `log/<name>/`."""
    model_path: str
    """Checkpoint of the diffusion model: file or remote address."""
    task: str = "inpaint"
    """Task for each image. `inpaint`: inpaint its hole, or generate images (see `generate`);
    `remove_shadow`: remove its shadow and keep what is beneath it."""
    method: str = "repaint"
    """The sampler; see [Samplers](#samplers)."""
    outputs: tuple[str, ...] = ("inpainted", "shadow_free")
    """Results that task `remove_shadow` makes. `inpainted`: the sampler inpaints the shadow; `shadow_free`:
    the shadow is removed and the texture beneath it is kept. A single word is a list of one."""
    seed: int = 0
    """Seed of all randomness. Each image draws its own noise from the seed and its file name."""
    seeds: Count = 1
    """Number of variants of each image, with the seeds `seed`, `seed` + 1, ... With more than 1,
    `_seed<seed>` is appended to the image's name."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`. `auto` = a GPU if there is one."""
    ray: str | None = None
    """Address of a Ray cluster that shares the work. `auto` = the cluster of this machine; `local` =
    start one here; `null` = none. Needs the extra `ray`."""
    precision: Precision = "auto"
    """Number format of the network. `auto` = `bf16` where the device has it natively, else `fp16` on a
    GPU and `fp32` on a CPU. `tf32`: float32 with TF32 matrix products on an NVIDIA GPU."""
    compile: Compile = "auto"
    """Whether to compile the network. `auto`: once it pays; `true`: at the first call; `false`: never.
    Results do not change."""
    paste_known: bool = True
    """Whether known pixels of the result are exactly those of the input."""
    windows: Windows = "holes"
    """Crop windows in which the model sees an image. `holes`: around each hole; `overlap`: overlapping
    windows at full resolution for large holes; `whole`: a single window with the whole image."""
    clip_denoised: bool = True
    """Whether each predicted clean image is clipped to [-1, 1]."""
    generate: Index = 0
    """Number of images to generate when there is no `data.gt_path`. Needs method `ddpm` or `ddim`."""
    cond_y: Index | None = None
    """Class to generate, 0 to 999, for networks with `class_cond` and for classifier guidance; `null` = a
    random class per image."""
    show_progress: bool = True
    """Whether to show progress bars."""
    save_npz: bool = False
    """Whether to save the results in `samples.npz` as well, as guided-diffusion does."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Architecture of the network."""
    process: ProcessConfig = field(default_factory=ProcessConfig)
    """The diffusion process."""
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """Classifier guidance."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images and masks."""
    paths: PathsConfig = field(default_factory=PathsConfig)
    """Folders of the results."""
    relight: RelightConfig = field(default_factory=RelightConfig)
    """Settings of shadow removal."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the samplers. The sampler's own dataclass checks them."""
    retired: tuple[str, ...] = field(default=(), compare=False)
    """Keys that were given and that nothing reads."""
    renamed: tuple[str, ...] = field(default=(), compare=False)
    """Old spellings that were given, each with the new one."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("name is empty; it names the folder of the results, log/<name>")
        if Path(self.name).is_absolute() or ".." in Path(self.name).parts:
            raise ConfigError(
                f"name {self.name!r} leads out of log/; give a plain name, and `paths` for others"
            )
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", self.device):
            raise ConfigError(f"device {self.device!r} is none of auto, cpu, cuda and cuda:N")
        if not self.outputs:
            raise ConfigError("outputs is empty; name at least one, or delete the key to get all")

    @property
    def log_dir(self) -> str:
        """Folder of the run: log/<name>."""
        return self.paths.log or f"./log/{self.name}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for the user, one line each."""
        notices = {"old spellings": self.renamed, "keys that nothing reads": self.retired}
        return tuple(f"{title}: {', '.join(keys)}" for title, keys in notices.items() if keys)


NOT_IN_YAML = ("options", "retired", "renamed")
"""Fields of Config that are no YAML keys."""
FLAT: dict[str, type] = {"model": ModelConfig, "process": ProcessConfig, "classifier": ClassifierConfig}
"""Field of Config -> its group, whose keys stand at the top level of the YAML."""
NESTED: dict[str, type] = {"data": DataConfig, "paths": PathsConfig, "relight": RelightConfig}
"""Field of Config -> its group, whose keys stand in a mapping of that name."""
TOP = [f.name for f in fields(Config) if f.name not in {*FLAT, *NESTED, *NOT_IN_YAML}]
"""Fields of Config that are YAML keys themselves."""
_KEYS = [*(key for key in flat_keys(Config, FLAT, NESTED) if key not in NOT_IN_YAML), *FLAGS]


def load(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    sampler_keys: Collection[str] = (),
    methods: Collection[str] | None = None,
    tasks: Collection[str] | None = None,
    outputs: Collection[str] | None = None,
) -> Config:
    """Load the Config of a YAML. Raises ConfigError for anything wrong with a file, a key or a value.

    Args:
        overrides: Each `key.path=value`, whose value is YAML; they are merged over the file in order.
        sampler_keys: Names of the keys that go into `options` unchecked. If it maps them to their types, an
            error can also name the keys inside a dataclass type.
        methods: Names of the samplers; None = `method` is not checked.
        tasks: Names of the tasks; None = `task` is not checked.
        outputs: Names that `outputs` may hold; None = they are not checked.
    """
    if not path:
        raise ConfigError("no configuration given; name one, e.g. --conf_path confs/shadow.yml")
    notices: list[str] = []
    rename = partial(rename_keys, notices=notices)
    merged, where = read_yaml(path, rename), str(path)
    _check_keys(merged, sampler_keys, where)
    for override in overrides:
        source = f"--set {override}"
        change = rename(parse_override(override), source)
        _check_keys(change, sampler_keys, source)
        merged, where = merge(merged, change), f"{path} with --set"
    config = _build(merged, sampler_keys, where, notices)
    _check_names(config, where, methods, tasks, outputs)
    return config


def from_mapping(
    mapping: Mapping[str, Any],
    sampler_keys: Collection[str] = (),
    where: str = "",
    methods: Collection[str] | None = None,
    tasks: Collection[str] | None = None,
    outputs: Collection[str] | None = None,
) -> Config:
    """Build the Config of a mapping laid out like the YAML. Arguments and errors are those of `load`."""
    notices: list[str] = []
    renamed = rename_keys(flatten_dataset(mapping, where), where, notices)
    _check_keys(renamed, sampler_keys, where)
    config = _build(renamed, sampler_keys, where, notices)
    _check_names(config, where, methods, tasks, outputs)
    return config


def to_mapping(config: Config) -> dict[str, Any]:
    """Convert the Config to plain values, laid out like the YAML: `from_mapping` reads them back."""
    flat = {key: value for group in FLAT for key, value in asdict(getattr(config, group)).items()}
    top = {key: getattr(config, key) for key in TOP}
    nested = {name: asdict(getattr(config, name)) for name in NESTED}
    return to_plain({**top, **flat, **config.options, **nested})


def _build(
    mapping: Mapping[str, Any], sampler_keys: Collection[str], where: str, notices: list[str]
) -> Config:
    """The Config of a mapping whose keys are known and have their new names."""
    rest, retired = drop_retired(mapping, NESTED, sampler_keys)
    options = {key: rest.pop(key) for key in list(rest) if key in sampler_keys and key not in _KEYS}
    rest, unread = apply_flags(translate_method(rest, notices), options, where)
    retired += unread
    if "classifier_scale" in rest and not rest.get("classifier_path"):
        retired.append("classifier_scale (there is no classifier_path)")
    if isinstance(rest.get("outputs"), str):
        rest["outputs"] = [rest["outputs"]]
    rest |= {"options": options, "retired": retired, "renamed": list(dict.fromkeys(notices))}
    return load_flat(Config, rest, where, flat=FLAT, nested=NESTED)


def _check_keys(mapping: Mapping[str, Any], sampler_keys: Collection[str], where: str) -> None:
    known = [*_KEYS, *sampler_keys]
    for key, hint in sampler_keys.items() if isinstance(sampler_keys, Mapping) else ():
        if is_dataclass(hint):
            known += [f"{key}.{f.name}" for f in fields(hint)]
    check_keys(mapping, known, NESTED, where, RETIRED)


def _check_names(
    config: Config,
    where: str,
    methods: Collection[str] | None,
    tasks: Collection[str] | None,
    outputs: Collection[str] | None,
) -> None:
    if methods is not None:
        check_choice(config.method, methods, where, "method")
    if tasks is not None:
        check_choice(config.task, tasks, where, "task")
    for index, output in enumerate(config.outputs if outputs is not None else ()):
        check_choice(output, outputs or (), where, f"outputs[{index}]")
