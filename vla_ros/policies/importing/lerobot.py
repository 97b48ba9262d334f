"""What LeRobot's ``save_pretrained`` leaves: a policy's configuration, its processing steps and its statistics.

Layouts of LeRobot 0.3 (statistics in the weights' file, no steps) up to 0.6 (two JSON files of steps, one safetensors
file for each step with a state). Nothing of LeRobot is needed; no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from vla_ros.strict import check_safetensors, explained, listed, parse_json, quoted, read_text
from vla_ros.transforms.normalize import LEROBOT_EPSILON, FieldStats

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
BEFORE_FILE, AFTER_FILE = "policy_preprocessor.json", "policy_postprocessor.json"
STATE, ACTION = "observation.state", "action"
NORMALIZERS = ("normalizer_processor", "unnormalizer_processor")
# Steps whose meaning is known; a family says which of them it needs.
KNOWN_STEPS = {
    "rename_observations_processor",
    "to_batch_processor",
    "pi0_new_line_processor",
    "smolvla_new_line_processor",
    "pi05_prepare_state_tokenizer_processor_step",
    "tokenizer_processor",
    "device_processor",
    "relative_actions_processor",
    "absolute_actions_processor",
    *NORMALIZERS,
}
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# Which two statistics become -1 and 1.
RANGES = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}
OURS = {"MEAN_STD": "lerobot_mean_std", **dict.fromkeys(RANGES, "lerobot_range")}
MODES = ("IDENTITY", *OURS)
MAX_DIM = 10_000
MERGE = "merge them into the model and save that alone, without adapter files and use_peft, then import it"
# As many deviations as 1 % of a normal distribution lie beyond, on each side: to show, not to compute with.
TAIL = 2.326
# Statistics of LeRobot 0.3, with what SmolVLA's bases have before them for each robot.
_BUFFER = re.compile(
    r"(?P<step>normalize_inputs|normalize_targets|unnormalize_outputs)\."
    r"(?:so\d+(?:-\w+)?_)?buffer_(?P<feature>.+)\.(?P<stat>\w+)"
)

Stats = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Feature:
    """``kind`` is STATE, VISUAL, ENV or ACTION; a picture's ``shape`` is (3, height, width)."""

    key: str
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Normalization:
    """How one key is normalised: a mode of ``transforms.normalize`` and the statistics [dim] that belong to it."""

    mode: str
    stats: FieldStats

    def rows(self, horizon: int) -> FieldStats:
        """The statistics [horizon, dim] of a chunk of ``horizon`` rows, all alike."""
        return FieldStats(**{name: np.tile(array, (horizon, 1)) for name, array in vars(self.stats).items()})


@dataclass(frozen=True)
class LeRobotCheckpoint:
    """``type`` is the policy's name and ``config`` its config.json; ``inputs`` and ``outputs`` are its features in
    order.

    ``steps`` are the configurations of the steps before and after the network by registry name, empty for LeRobot 0.3.
    ``stats`` are statistics by feature; ``modes`` the normalisation by kind of feature.
    """

    folder: Path
    type: str
    config: Mapping[str, Any]
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stats: Mapping[str, Stats] = field(default_factory=dict)
    modes: Mapping[str, str] = field(default_factory=dict)

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS_FILE

    @property
    def cameras(self) -> tuple[Feature, ...]:
        """The pictures, in the order in which the network sees them; an empty slot never has one."""
        return tuple(x for x in self.inputs if x.kind == "VISUAL" and ".empty_camera_" not in x.key)

    @property
    def rename(self) -> Mapping[str, str]:
        """From the keys that the recordings had to the policy's."""
        renamed = self.steps.get("rename_observations_processor", {}).get("rename_map") or {}
        return renamed if isinstance(renamed, Mapping) else {}

    @property
    def has_stats(self) -> bool:
        """Whether it can be driven with: a base checkpoint has none."""
        return ACTION in self.stats or self.modes.get("ACTION") == "IDENTITY"

    def check_stats(self) -> None:
        """Raises ValueError where it can't be driven with."""
        if not self.has_stats:
            got = f"{self.folder} has no statistics of its actions: a base checkpoint, which nothing can be driven with"
            raise ValueError(f"{got}; fine-tune it on the robot's data, import that, or it as a start: --for-training")

    def sized(self, sizes: Mapping[str, int]) -> LeRobotCheckpoint:
        """With so many numbers of each key: a base's are those of no robot."""
        features = {
            group: tuple(replace(x, shape=(sizes[x.key],)) if x.key in sizes else x for x in getattr(self, group))
            for group in ("inputs", "outputs")
        }
        return replace(self, **features)

    def feature(self, key: str) -> Feature:
        """The feature of that key; raises ValueError where there is none."""
        for each in (*self.inputs, *self.outputs):
            if each.key == key:
                return each
        got = ", ".join(quoted(each.key) for each in (*self.inputs, *self.outputs)) or "none"
        raise ValueError(f"{self.folder / CONFIG_FILE}: its features are {got}; expected '{key}' among them")

    def number(self, key: str, default: int, low: int = 1, high: int = MAX_DIM) -> int:
        """A whole number of config.json; raises ValueError for something else."""
        value = self.config.get(key, default)
        if type(value) is not int or not low <= value <= high:
            got = f"{key} is {quoted(repr(value))}"
            raise ValueError(f"{self.folder / CONFIG_FILE}: {got}; expected a whole number from {low} to {high}")
        return value

    def normalization(self, key: str) -> Normalization:
        """How a state, an action or a picture is normalised; a feature without statistics passes as it is, as LeRobot
        has it, in a base until it is trained. Raises ValueError for statistics of another size, or not finite."""
        feature = self.feature(key)
        mode, stats = self.modes.get(feature.kind, "IDENTITY"), self.stats.get(key)
        size = feature.shape[0]
        if mode == "IDENTITY" or not stats:
            zeros, ones = np.zeros(size, np.float32), np.ones(size, np.float32)
            is_kept = mode == "IDENTITY" or self.has_stats
            return Normalization("none" if is_kept else OURS[mode], FieldStats(zeros, ones, -ones, ones))
        low, high = RANGES.get(mode, ("mean", "std"))
        values = {name: self._stat(key, name, size) for name in {low, high, *({"mean", "std"} & set(stats))}}
        if mode == "MEAN_STD":
            mean, std = values["mean"], values["std"]
            return Normalization(OURS[mode], FieldStats(mean, std, mean - TAIL * std, mean + TAIL * std))
        middle, spread = (values[low] + values[high]) / 2, (values[high] - values[low]) / 2
        mean, std = values.get("mean", middle), values.get("std", spread)
        return Normalization(OURS[mode], FieldStats(mean, std, values[low], values[high]))

    def relative_dims(self) -> tuple[bool, ...]:
        """For each number of an action whether it is relative to the state of its observation; empty where no step
        says it."""
        size = self.feature(ACTION).shape[0]
        step = self.steps.get("relative_actions_processor")
        if step is None:
            return ()
        if not step.get("enabled"):
            return (False,) * size
        tokens, names = (_lower(step.get(key), key) for key in ("exclude_joints", "action_names"))
        excluded = [any(token in name for token in tokens) for name in names[:size]]
        return tuple(not x for x in excluded) + (True,) * (size - len(excluded))

    def action_names(self) -> tuple[str, ...]:
        """What the numbers of an action are called, in lower case; empty where it doesn't say. Raises ValueError for
        something else than a list."""
        step = self.steps.get("relative_actions_processor", {})
        named = self.config.get("action_feature_names") or step.get("action_names")
        return _lower(named, f"{self.folder / CONFIG_FILE}: action_feature_names")

    def _stat(self, key: str, name: str, size: int) -> np.ndarray:
        value = self.stats[key].get(name)
        if value is None:
            there = ", ".join(self.stats[key])
            raise ValueError(f"{self.folder}: the statistics of {key} have {there}; its normalisation needs {name}")
        flat = np.asarray(value, np.float32).reshape(-1)
        if flat.shape != (size,) or not np.isfinite(flat).all():
            got = (
                f"{key}.{name} has shape {list(np.shape(value))}" if flat.shape != (size,) else f"{key}.{name} is unset"
            )
            raise ValueError(f"{self.folder}: {got}; expected {size} finite numbers: export it with its statistics")
        return flat


def read_lerobot(folder: Path, ignored_steps: tuple[str, ...] = ()) -> LeRobotCheckpoint:
    """The checkpoint in ``folder``; its weights are not read but for statistics that lie in them.

    Raises ValueError, in one line, for files that are missing, damaged or point outside the folder, for adapters in
    place of weights, and for a step that nobody knows, unless it is among ``ignored_steps``.
    """
    config = read_object(folder / CONFIG_FILE)
    _check_weights(folder, bool(config.get("use_peft")))
    with explained(f"{folder / CONFIG_FILE}: "):
        inputs, outputs = (_features(config, key) for key in ("input_features", "output_features"))
        modes = _modes(config.get("normalization_mapping") or {})
    checkpoint = LeRobotCheckpoint(folder, str(config.get("type")), config, inputs, outputs, modes=modes)
    if not (folder / BEFORE_FILE).is_file():
        _check_ignored(ignored_steps, {})
        return replace(checkpoint, stats=_buffered_stats(checkpoint))
    before = _read_steps(folder / BEFORE_FILE, ignored_steps)
    after = _read_steps(folder / AFTER_FILE, ignored_steps) if (folder / AFTER_FILE).is_file() else {}
    _check_ignored(ignored_steps, {**after, **before})
    given, made = _step_stats(folder, before, NORMALIZERS[0]), _step_stats(folder, after, NORMALIZERS[1])
    if bool(given) != bool(made):
        lacks, has = (AFTER_FILE, BEFORE_FILE) if given else (BEFORE_FILE, AFTER_FILE)
        got = f"{folder / lacks} is missing, or names no state_file"
        raise ValueError(f"{got}, and {has} has statistics; restore it from its origin")
    # As LeRobot takes them: what the state is normalised by from the one, what the action is from the other.
    stats = {key: value for key, value in given.items() if key != ACTION}
    stats |= {ACTION: made[ACTION]} if ACTION in made else {}
    for step in (after.get(NORMALIZERS[1], {}), before.get(NORMALIZERS[0], {})):
        modes = _modes(step["norm_map"]) if step.get("norm_map") else modes
    steps = {name: step for name, step in {**after, **before}.items() if name not in ignored_steps}
    return replace(checkpoint, steps=steps, stats=stats, modes=modes)


def _step_stats(folder: Path, steps: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Stats]:
    """What a step normalises by, of the keys that it normalises."""
    step = steps.get(name, {})
    if step.get("eps", LEROBOT_EPSILON) != LEROBOT_EPSILON:
        raise ValueError(f"{folder}: {name} has eps {step['eps']!r}; expected {LEROBOT_EPSILON}")
    if not step.get("state_file"):
        return {}
    found, keys = _read_stats(folder, str(step["state_file"])), step.get("normalize_observation_keys")
    kept = found if keys is None else (ACTION, *_listed(keys, "normalize_observation_keys"))
    return {key: value for key, value in found.items() if key in kept}


def _check_ignored(ignored: Sequence[str], steps: Mapping[str, Any]) -> None:
    """Raises ValueError for a step that is done here, or that isn't there."""
    for name in ignored:
        if name in KNOWN_STEPS:
            raise ValueError(f"--ignore-step {name}: this step is known, and done here as it is there; leave that out")
        if name not in steps:
            there = listed(tuple(steps))
            raise ValueError(f"--ignore-step {quoted(name)}: there is no such step; the checkpoint has {there}")


def _check_weights(folder: Path, has_adapters: bool) -> None:
    """Raises ValueError where there are none, they are a pickle, or adapters change them."""
    there = (folder / WEIGHTS_FILE).is_file()
    if has_adapters or any(folder.glob("adapter_*")):
        what = f"holds adapters (PEFT){' beside' if there else ' and not'} the weights that they change"
        raise ValueError(f"{folder} {what}; {MERGE}")
    if there:
        return
    pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES]
    if pickles:
        what = f"{folder / pickles[0]} is a pickle, which could run code; nothing was run"
        raise ValueError(f"{what}: save the policy with save_pretrained, as {WEIGHTS_FILE}")
    raise ValueError(f"{folder / WEIGHTS_FILE} is missing; a LeRobot checkpoint has it beside {CONFIG_FILE}")


def read_object(path: Path) -> Mapping[str, Any]:
    """A JSON file that holds an object; raises ValueError for one that isn't readable, or holds something else."""
    with explained(f"{path}: not readable as JSON (", OSError, ValueError, after="); restore it from its origin"):
        document = parse_json(read_text(path))
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds {type(document).__name__}; expected an object")
    return document


def _features(config: Mapping[str, Any], group: str) -> tuple[Feature, ...]:
    features = []
    for key, entry in _mapping(config.get(group) or {}, group).items():
        entry = _mapping(entry, f"{group}.{quoted(key)}")
        shape = entry.get("shape")
        is_shape = isinstance(shape, list) and 0 < len(shape) <= 4
        if not is_shape or any(type(size) is not int or not 0 < size <= MAX_DIM for size in shape):
            raise ValueError(f"{group}.{quoted(key)} has shape {quoted(repr(shape))}; expected whole numbers above 0")
        features.append(Feature(key, str(entry.get("type")), tuple(shape)))
    return tuple(features)


def _modes(document: Any) -> dict[str, str]:
    modes = _mapping(document, "normalization_mapping")
    for kind, mode in modes.items():
        if mode not in MODES:
            raise ValueError(
                f"{quoted(kind)} is normalised by {quoted(repr(mode))}; expected one of {', '.join(MODES)}"
            )
    return dict(modes)


def _listed(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where} is {type(value).__name__}; expected a list")
    return value


def _lower(value: Any, where: str) -> tuple[str, ...]:
    return tuple(str(name).lower() for name in _listed(value or [], where))


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {type(value).__name__}; expected an object")
    return value


def _read_steps(path: Path, ignored: tuple[str, ...]) -> dict[str, Mapping[str, Any]]:
    steps = read_object(path).get("steps")
    if not isinstance(steps, list):
        raise ValueError(f"{path}: steps is {type(steps).__name__}; expected a list")
    found: dict[str, Mapping[str, Any]] = {}
    with explained(f"{path}: "):
        for step in steps:
            step = _mapping(step, "a step")
            name = str(step.get("registry_name") or step.get("class"))
            if name not in KNOWN_STEPS and name not in ignored:
                fix = f"leave it out with --ignore-step {quoted(name)} where it doesn't"
                raise ValueError(f"step '{quoted(name)}' isn't known and may change the numbers; {fix}")
            own = {key: step[key] for key in ("state_file", "artifacts") if key in step}
            found[name] = {**_mapping(step.get("config") or {}, name), **own}
    return found


def _read_stats(folder: Path, name: str) -> dict[str, Stats]:
    """Flat names ``<feature>.<stat>``, split at the last dot."""
    path = folder / name
    if Path(name).name != name:
        raise ValueError(f"{folder}: state_file is '{quoted(name)}'; expected a file beside it, not a path")
    if not path.is_file():
        raise ValueError(f"{folder / quoted(name)} is missing, which {BEFORE_FILE} names; restore it from its origin")
    stats: dict[str, dict[str, np.ndarray]] = {}
    for full, value in _read_tensors(path, lambda _: True).items():
        key, _, stat = full.rpartition(".")
        stats.setdefault(key, {})[stat] = value
    return dict(stats)


def _buffered_stats(checkpoint: LeRobotCheckpoint) -> dict[str, Stats]:
    """LeRobot 0.3's: the dots of a feature's name became underscores, which only the features undo."""
    keys = {each.key.replace(".", "_"): each.key for each in (*checkpoint.inputs, *checkpoint.outputs)}
    stats: dict[str, dict[str, np.ndarray]] = {}
    for name, value in _read_tensors(checkpoint.weights, is_statistic).items():
        match = _BUFFER.fullmatch(name)
        if match is None or match["feature"] not in keys:
            raise ValueError(f"{checkpoint.weights}: '{quoted(name)}' is of no feature that {CONFIG_FILE} names")
        if np.isfinite(value).all():  # infinite until somebody sets them
            stats.setdefault(keys[match["feature"]], {})[match["stat"]] = value
    return dict(stats)


def is_statistic(name: str) -> bool:
    """Whether a tensor of a weights' file is a statistic of LeRobot 0.3."""
    return name.startswith(("normalize_inputs.", "normalize_targets.", "unnormalize_outputs."))


def _read_tensors(path: Path, wanted: Any) -> dict[str, np.ndarray]:
    # A dtype that numpy doesn't have is an AttributeError or a TypeError.
    kinds = (SafetensorError, OSError, AttributeError, TypeError, ValueError)
    with explained(f"{path}: damaged (", *kinds, after="); copy or download it again"):
        check_safetensors(path)
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys() if wanted(name)}
