"""What to do, read from one YAML: frozen dataclasses with every default, and a loader that takes no typo.

The YAML is flat and keeps the key names of guided-diffusion and RePaint; the grouping exists in Python only.
Every mistake of the user is a ConfigError of one line that names the key, the value and the place.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from guided_diffusion.config.builder import (
    CommaList,
    Count,
    Index,
    NonNegative,
    as_mapping,
    construct,
    plain,
    unknown_key,
)
from guided_diffusion.config.legacy import RETIRED, Translated, translate
from guided_diffusion.config.resolutions import attention_downsamples, channel_mults
from guided_diffusion.config.shadow import RelightConfig
from guided_diffusion.config.types import Compile, Precision, Windows
from guided_diffusion.config.yaml_files import merge, one_dataset, parse_override, read_yaml
from guided_diffusion.errors import ConfigError


@dataclass(frozen=True)
class ModelConfig:
    """The network, in guided-diffusion's words. Raises ConfigError if the levels do not fit image_size.

    per_pixel_time: it was trained, or is to be, on images of which a part is clean, as method td_paint
    shows them to it.
    """

    image_size: Count = 256
    num_channels: Count = 256
    num_res_blocks: Count = 2
    num_heads: Count = 4
    num_heads_upsample: int = -1  # -1 = num_heads
    num_head_channels: int = 64  # -1 = num_heads counts
    attention_resolutions: CommaList = "32,16,8"
    channel_mult: CommaList = ""
    dropout: NonNegative = 0.0
    class_cond: bool = False
    use_checkpoint: bool = False
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    use_new_attention_order: bool = False
    learn_sigma: bool = True
    norm_num_groups: Count = 32  # of channels that are normalised together
    per_pixel_time: bool = False

    def __post_init__(self) -> None:
        # Both parse their text: a mistake shall come out before any work is done.
        assert self.channel_mults
        assert isinstance(self.attention_downsamples, tuple)

    @property
    def channel_mults(self) -> tuple[float, ...]:
        return channel_mults(self.channel_mult, self.image_size)

    @property
    def attention_downsamples(self) -> tuple[int, ...]:
        return attention_downsamples(self.attention_resolutions, self.image_size)


@dataclass(frozen=True)
class ProcessConfig:
    """The diffusion process. Raises ConfigError for a timestep_respacing that diffusion_steps cannot give."""

    diffusion_steps: Count = 1000
    noise_schedule: Literal["linear", "cosine"] = "linear"
    timestep_respacing: CommaList = "250"  # steps, steps per section, 'ddimN', or '' = all
    predict_xstart: bool = False
    rescale_timesteps: bool = False
    rescale_learned_sigmas: bool = False
    use_kl: bool = False
    sigma_small: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.num_steps <= self.diffusion_steps:
            raise ConfigError(
                f"timestep_respacing {self.timestep_respacing!r} asks for {self.num_steps} steps; "
                f"diffusion_steps {self.diffusion_steps} allows 1 to {self.diffusion_steps}"
            )

    @property
    def num_steps(self) -> int:
        """Number of steps of the respaced process."""
        text = self.timestep_respacing.replace(" ", "")
        if not text:
            return self.diffusion_steps
        if not re.fullmatch(r"(ddim)?[0-9]{1,9}|[0-9]{1,9}(,[0-9]{1,9})+", text):
            raise ConfigError(f"timestep_respacing {text!r} is none of 250, '10,15,25', 'ddim50' and ''")
        return sum(int(count) for count in text.removeprefix("ddim").split(","))


@dataclass(frozen=True)
class ClassifierConfig:
    """Classifier guidance; without classifier_path there is none."""

    classifier_path: str | None = None
    classifier_scale: float = 1.0
    classifier_width: Count = 128
    classifier_depth: Count = 2
    classifier_attention_resolutions: CommaList = "32,16,8"
    classifier_use_scale_shift_norm: bool = True
    classifier_resblock_updown: bool = True
    classifier_pool: Literal["adaptive", "attention", "spatial", "spatial_v2"] = "attention"


@dataclass(frozen=True)
class DataConfig:
    """Images and masks: folder or file, local or remote. max_len None = all from offset on."""

    gt_path: str | None = None
    mask_path: str | None = None  # method relight also takes auto: it finds the shadows itself
    batch_size: Count | Literal["auto"] = "auto"  # images at once; auto = as many as pay and as memory holds
    max_len: Count | None = None
    offset: Index = 0
    mask_is: Literal["keep", "shadow"] = "keep"  # what 255 stands for
    free_path: str | None = None  # images without the shadows, shown beside the results


@dataclass(frozen=True)
class PathsConfig:
    """Folders for the results; None = ./log/<name>/ and the folder named behind each."""

    srs: str | None = None  # inpainted
    lrs: str | None = None  # gt_masked
    gts: str | None = None  # gt
    gt_keep_masks: str | None = None  # gt_keep_mask
    shadow_frees: str | None = None  # shadow_free
    shadow_mattes: str | None = None  # shadow_matte
    shadow_fields: str | None = None  # shadow_field


@dataclass(frozen=True)
class Config:
    """One run. `options`: keys of the samplers; `retired`: keys that were given and nobody reads.

    outputs, relight: for method relight, whose painting reads the keys of method repaint.
    """

    name: str
    model_path: str
    method: Literal["repaint", "ddpm", "ddim", "ddnm", "intermediate", "ilvr", "td_paint", "relight"] = (
        "repaint"
    )
    outputs: tuple[Literal["inpainted", "shadow_free"], ...] = ("inpainted", "shadow_free")
    seed: int = 0
    seeds: Count = 1  # fillings of each image, by seed, seed + 1, ...
    device: str = "auto"
    ray: str | None = None  # address of a Ray cluster that shares the images; local = one on this machine
    precision: Precision = "auto"
    compile: Compile = "auto"
    paste_known: bool = True
    windows: Windows = "holes"  # the model sees each hole by itself, large ones natively, or all through one
    clip_denoised: bool = True
    generate: Index = 0  # number of images to make when there is no gt_path
    cond_y: Index | None = None
    show_progress: bool = True
    save_npz: bool = False  # the finished images in one file too, as guided-diffusion's samples
    model: ModelConfig = field(default_factory=ModelConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    data: DataConfig = field(default_factory=DataConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    relight: RelightConfig = field(default_factory=RelightConfig)
    options: Mapping[str, Any] = field(default_factory=dict)
    retired: tuple[str, ...] = field(default=(), compare=False)

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
            raise ConfigError("outputs is empty; name inpainted, shadow_free or both")
        guide = self.classifier
        if self.method == "td_paint" and guide.classifier_path and guide.classifier_scale != 0:
            raise ConfigError(
                "method td_paint shows clean pixels beside noisy ones, which no classifier knows; set "
                "classifier_scale: 0"
            )

    @property
    def log_dir(self) -> str:
        return f"./log/{self.name}"

    @property
    def folders(self) -> PathsConfig:
        """`paths` with the defaults filled in."""
        names = {key: key.removesuffix("s") for key in vars(self.paths)}
        names |= {"srs": "inpainted", "lrs": "gt_masked"}
        given = {key: folder for key, folder in vars(self.paths).items() if folder}
        return PathsConfig(**{key: f"{self.log_dir}/{folder}" for key, folder in names.items()} | given)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should be told, one line each."""
        told = [f"keys that nothing reads: {', '.join(self.retired)}"] if self.retired else []
        if self.method == "td_paint" and not self.model.per_pixel_time:
            told.append(
                "method td_paint fills badly with a network that only knows images noisy all over; train "
                "one with per_pixel_time: true (docs/guide/training.md), set it here, or use method repaint"
            )
        return tuple(told)


_FLAT = {"model": ModelConfig, "process": ProcessConfig, "classifier": ClassifierConfig}
_NESTED = {"data": DataConfig, "paths": PathsConfig, "relight": RelightConfig}
_TOP = [f.name for f in fields(Config) if f.name not in {*_FLAT, *_NESTED, "options", "retired"}]
# YAML key (dotted inside data, paths and relight) -> (group in Config, field).
_HOME = {
    **{key: ("", key) for key in _TOP},
    **{f.name: (g, f.name) for g, cls in _FLAT.items() for f in fields(cls)},
    **{f"{g}.{f.name}": (g, f.name) for g, cls in _NESTED.items() for f in fields(cls)},
    **{f.name: ("translated", f.name) for f in fields(Translated)},
}


def load(
    path: str | Path | None, overrides: Sequence[str] = (), sampler_keys: Collection[str] = ()
) -> Config:
    """The Config of a YAML file, with `key.path=value` overrides (values are YAML) laid over it.

    sampler_keys: names of the keys that go into `options` unchecked; the sampler's own dataclass checks them.
    If it maps them to their types, keys inside a dataclass type can be named in an error too.
    Raises ConfigError for anything wrong with the file, its includes, the overrides, a key or a value.
    """
    if not path:
        raise ConfigError("no configuration given; name one, e.g. --conf_path confs/shadow.yml")
    merged, where = read_yaml(path), str(path)
    for override in overrides:
        change = parse_override(override)
        _sorted(change, sampler_keys, f"--set {override}")
        merged, where = merge(merged, change), f"{path} with --set"
    return from_mapping(merged, sampler_keys, where)


def from_mapping(mapping: Mapping[str, Any], sampler_keys: Collection[str] = (), where: str = "") -> Config:
    """The Config of a mapping laid out like the YAML. Raises ConfigError as `load` does."""
    groups = _sorted(mapping, sampler_keys, where)
    top, options, retired = groups[""], groups["options"], list(groups["retired"])
    repaints = top.get("method", "repaint") in ("repaint", "relight")
    retired += translate(groups["translated"], top, options, repaints, where)
    if "classifier_scale" in groups["classifier"] and not groups["classifier"].get("classifier_path"):
        retired.append("classifier_scale (there is no classifier_path)")
    if isinstance(top.get("outputs"), str):
        top["outputs"] = [top["outputs"]]
    parts: dict[str, object] = {name: construct(cls, groups[name], where) for name, cls in _FLAT.items()}
    parts |= {name: construct(cls, groups[name], where, name) for name, cls in _NESTED.items()}
    return construct(Config, {**top, **parts, "options": options, "retired": tuple(retired)}, where)


def to_mapping(config: Config) -> dict[str, Any]:
    """The Config as plain values, laid out like the YAML: `from_mapping` reads it back."""
    groups = [asdict(getattr(config, group)) for group in _FLAT]
    flat = {key: value for group in groups for key, value in group.items()}
    top = {key: getattr(config, key) for key in _TOP}
    nested = {name: asdict(getattr(config, name)) for name in _NESTED}
    return plain({**top, **flat, **config.options, **nested})


_PLACES_AND_AMOUNTS = (
    *("data", "paths", "name", "device", "ray", "seeds", "show_progress", "generate", "outputs"),
    *("model_path", "classifier_path", "save_npz", "compile"),
)

_TOLD_BY_WEIGHTS = ("per_pixel_time", "precision")  # `extra` says what they came to


def fingerprint(config: Config, extra: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of all that changes what a sampler makes: the Config less its places and amounts, and
    `extra` (which holds what the weights are, whatever their paths)."""
    mapping = to_mapping(config)
    for key in (*_PLACES_AND_AMOUNTS, *_TOLD_BY_WEIGHTS, "relight"):
        del mapping[key]
    return digest([mapping, extra])


def relight_fingerprint(config: Config, extra: Mapping[str, Any] | None, finder: str | None = None) -> str:
    """SHA-256 (hex) of all that changes what lies beneath a shadow; `extra` None = no network is asked;
    finder: of the weights that look for a second shadow."""
    own = config if config.relight.paint_black else replace(config, options={}, windows="holes")
    prior = None if extra is None else fingerprint(own, extra)
    return digest([asdict(config.relight), config.seed, prior, finder])


def digest(values: Any) -> str:
    """SHA-256 (hex) of plain values, whatever the order of their keys."""
    text = json.dumps(plain(values), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _dotted_items(mapping: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if key in _NESTED:
            yield from ((f"{key}.{inner}", v) for inner, v in as_mapping(value, where, key).items())
        else:
            yield key, value


def _sorted(
    mapping: Mapping[str, Any], sampler_keys: Collection[str], where: str
) -> defaultdict[str, dict[str, Any]]:
    """Group in Config -> its values. Raises ConfigError for a key that nobody knows."""
    groups: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for key, value in _dotted_items(one_dataset(mapping, where), where):
        if key in _HOME:
            group, name = _HOME[key]
            groups[group][name] = value
        elif key in sampler_keys:
            groups["options"][key] = value
        elif key in RETIRED:
            groups["retired"][key] = value
        else:
            raise unknown_key(key, [*_HOME, *_with_inner(sampler_keys)], where)
    return groups


def _with_inner(sampler_keys: Collection[str]) -> Iterator[str]:
    yield from sampler_keys
    for key, hint in sampler_keys.items() if isinstance(sampler_keys, Mapping) else ():
        if is_dataclass(hint):
            yield from (f"{key}.{f.name}" for f in fields(hint))
