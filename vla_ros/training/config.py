"""Configuration of a training run: ``config/train/*.yaml`` composed by Hydra, read strictly."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vla_ros.policies.config import DataConfig, PolicyConfig
from vla_ros.policies.families import family_of, read_policy_config
from vla_ros.policies.importing.source import HUB_PREFIX
from vla_ros.strict import (
    MAX_DEPTH,
    MAX_LINE,
    check_choice,
    check_range,
    config_to_dict,
    explained,
    leaves,
    parse_config,
    parse_yaml,
    quoted,
    read_text,
)
from vla_ros.training.episodes import EPISODES, LearnFrom
from vla_ros.training.weights import Weighted

RENAMED = {  # keys of earlier releases
    "optimizer.learning_rate": "lr.base",
    "initial_policy": "start_from",
    "vocab_size": "lesson.vocab_size",
    "vision_pos_emb_init_gain": "lesson.vision_pos_emb_init_gain",
    "demonstrations": "lesson.demonstrations",
    "demonstrations_dir": "lesson.demonstrations_dir",
    "intervention_weight": "learn_from.intervention",
}
REPLACED = {"interventions": "learn_from, the weights of demonstration, intervention and policy (0 leaves out)"}
CACHE_OFF, CACHE_FOLDER = "off", "vla_ros_cache"
VISION_POS_EMB_GAIN = 0.02  # as backbones have it
TRAIN_PREFIX = "train:"  # of a start_from that is trained first
PRECISIONS = ("float32", "bfloat16")
RUN_CONFIG = "config.yaml"  # in a run's folder, all that it was started with


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and then a cosine down to ``final_scale`` of each learning rate, which with 1 stays as
    it is; ``ema_decay`` averages the weights that are exported."""

    num_steps: int
    batch_size: int
    warmup_steps: int
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98
    max_grad_norm: float = 1.0
    ema_decay: float = 0.998
    final_scale: float = 0.0

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "warmup_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name} is {getattr(self, name)}; expected at least 1")
        check_range("optimizer.", self, 0, 1, "final_scale", "weight_decay")
        for name in ("beta1", "beta2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name} is {getattr(self, name):g}; expected at least 0 and below 1")
        if self.max_grad_norm <= 0:
            raise ValueError(f"optimizer.max_grad_norm is {self.max_grad_norm:g}; expected a number above 0")


@dataclass(frozen=True)
class LearningRates:
    """Those of a policy's parts; ``base`` is that of all that have none of their own."""

    base: float
    backbone: float | None = None
    expert: float | None = None

    def __post_init__(self) -> None:
        for part, rate in self.given.items():
            if rate <= 0:
                fix = "" if part == "base" else f", or frozen: [{part}]"
                raise ValueError(f"lr.{part} is {rate:g}; expected a number above 0{fix}")

    @property
    def given(self) -> dict[str, float]:
        """By part, those that are."""
        return {part: rate for part, rate in vars(self).items() if rate is not None}

    def of(self, part: str) -> float:
        return self.given.get(part, self.base)


@dataclass(frozen=True)
class LessonConfig:
    """What is taught beside actions, ``name``, which is for the command line to know, and how a policy begins that is
    taught it from random weights: with a tokenizer of at most ``vocab_size`` tokens, which the lesson makes, and
    position embeddings of its vision tower with a standard deviation of ``vision_pos_emb_init_gain``.

    ``demonstrations`` are the bags that it makes in ``demonstrations_dir``, where no bags are given.
    """

    name: str
    vocab_size: int
    vision_pos_emb_init_gain: float = VISION_POS_EMB_GAIN
    demonstrations_dir: str = ""
    demonstrations: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SetConfig:
    """A LeRobot data set in the folder ``path``: what its numbers mean by ``space``, a preset or a file (empty: as it
    says itself, else joints in rad and m by name); the robot's camera by the set's, where names differ. A sample of it
    is drawn ``weight`` times as often as one of others."""

    path: str
    space: str = ""
    cameras: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0

    def __post_init__(self) -> None:
        Weighted(self.path, self.weight)


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    ``bags`` are bags and folders of them, whose samples are drawn twice as often with ``@2`` behind it (in a file one
    text will do), ``sets`` LeRobot data sets; nothing is written there. ``lesson`` is what is taught beside actions;
    its demonstrations are made and read only where there are neither. Every ``validate_every`` steps the run is judged
    on the last ``validation_share`` of the episodes, which it never trains on. ``run_dir`` holds metrics, the log and
    the last ``keep_checkpoints`` checkpoints, one of which is made every ``checkpoint_every`` steps; ``output_dir``
    gets the policy directory.
    ``processor`` is what the family's processor takes from a train config (its ``settings_type``).

    ``cache`` is the folder where decoded pictures are kept, empty for one beside ``run_dir``; ``off`` decodes them
    again whenever they are drawn.

    ``num_workers`` read bags and decode pictures, and ``num_threads`` compute, on each machine together.
    ``checkpoint_layers`` keeps of each layer what goes into it and computes the rest once more for its gradient,
    ``compile_layers`` compiles each. ``precision`` is what a step computes in (``bfloat16``, or ``float32``): weights,
    gradients, their moments and averages are float32 in any case, and so is what is exported.

    ``lr`` has the learning rates, ``frozen`` what doesn't learn at all: parts, names of modules or parameters, patterns
    with ``*``.

    ``start_from`` is a policy directory to go on from: its weights and its tokenizer, not its statistics; or the
    published weights of the policy's backbone, a folder or ``hf:org/repo``, under an expert that is random. Empty
    starts from random weights. ``train:NAME`` is the policy of another train config, which ``stages`` has trained first
    where it isn't there yet.

    ``namespace`` is the one the bags were recorded in. ``episodes`` says what begins one: another instruction
    (``task``), or ``start`` on ``vla_policy/episode`` (``marker``); failed ones are left out unless ``keep_failures``.
    ``learn_from`` weighs who drove, and ``before_takeover_s`` is how long before a takeover nothing is learned of the
    policy.
    """

    robot: str
    bags: tuple[str, ...]
    run_dir: str
    output_dir: str
    policy: PolicyConfig
    data: DataConfig
    optimizer: OptimizerConfig
    lr: LearningRates
    frozen: tuple[str, ...] = ()
    sets: tuple[SetConfig, ...] = ()
    processor: object | None = None
    start_from: str = ""
    lesson: LessonConfig | None = None
    namespace: str = ""
    episodes: str = "task"
    keep_failures: bool = False
    learn_from: LearnFrom = LearnFrom()
    before_takeover_s: float = 1.0
    min_frame_gap_s: float = 0.0
    validation_share: float = 0.02
    validate_every: int = 250
    checkpoint_every: int = 250
    keep_checkpoints: int = 2
    cache: str = ""
    num_workers: int = 2
    num_threads: int = 2
    checkpoint_layers: bool = False
    compile_layers: bool = False
    precision: str = "float32"
    device: str = "auto"
    seed: int = 0

    @property
    def cache_dir(self) -> Path | None:
        """Where decoded pictures are kept; None: nowhere."""
        if self.cache == CACHE_OFF:
            return None
        return Path(self.cache) if self.cache else Path(self.run_dir).resolve().with_name(CACHE_FOLDER)

    def __post_init__(self) -> None:
        check_choice("episodes", self.episodes, EPISODES)
        check_choice("precision", self.precision, PRECISIONS)
        from_one = ("validate_every", "checkpoint_every", "keep_checkpoints", "num_threads")
        for name in (*from_one, "seed", "min_frame_gap_s", "before_takeover_s", "validation_share"):
            if getattr(self, name) < (least := int(name in from_one)):
                raise ValueError(f"{name} is {getattr(self, name):g}; expected at least {least}")
        if self.keep_failures and self.episodes != "marker":
            raise ValueError(f"episodes is '{self.episodes}'; expected marker with keep_failures")


def _check_keys(label: str, overrides: Sequence[str]) -> None:
    """Of a key that is given twice Hydra takes the last, and settings of its own do nothing here."""
    keys = [text.lstrip("+~").partition("=")[0] for text in overrides]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"{label}: override '{quoted(key)}' is given twice; remove one")
        _check_renamed(label, key)
        if key.startswith("hydra"):
            raise ValueError(f"{label}: override '{quoted(key)}' is Hydra's own; expected a key of the config")


def _check_renamed(label: str, key: str) -> None:
    for then, now in RENAMED.items():
        if f"{key}.".startswith(f"{then}."):
            raise ValueError(f"{label}: {then} is called {now} now; rename it")
    if key in REPLACED:
        raise ValueError(f"{label}: {key} is no more; use {REPLACED[key]}")


def load_train_config(config_dir: Path, name: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Compose the train config ``name`` with Hydra ``overrides`` such as ``optimizer.num_steps=100``.

    ``name`` is a file's path, which ends in ``.yaml``, or that of ``train/<name>.yaml`` below ``config_dir``, whose
    groups a file of one's own can name, too.

    Raises ValueError for a config that doesn't exist, an unknown or missing key, and a value of another type.
    """
    own = Path(name).expanduser().resolve() if name.endswith(".yaml") else None
    path = own or config_dir / "train" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in (config_dir / "train").glob("*.yaml")))
        places = f"expected a .yaml file, or one that {config_dir / 'train'} has: {known}"
        raise ValueError(f"train config '{quoted(name)}' does not exist; {places}")
    if own is not None:
        with explained(f"train config '{name}': ", OSError, ValueError):
            parse_yaml(read_text(own))  # which bounds what Hydra then reads
    return _compose(path, config_dir, overrides, f"train config '{name}'", own is not None)


def complete_train_config(config_dir: Path, document: Mapping[str, Any], overrides: Sequence[str] = ()) -> TrainConfig:
    """As ``load_train_config``, of a ``document`` that no file holds yet."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "derived.yaml")
        path.write_text(OmegaConf.to_yaml(OmegaConf.create(dict(document))))
        return _compose(path, config_dir, overrides, "train config", True)


def _compose(path: Path, config_dir: Path, overrides: Sequence[str], label: str, is_own: bool) -> TrainConfig:
    for text in overrides:
        if len(text) > MAX_LINE or sum(map(text.count, "[{(")) > MAX_DEPTH:
            expected = f"expected at most {MAX_LINE} characters and {MAX_DEPTH} brackets"
            raise ValueError(f"{label}: override '{quoted(text)}' is too long; {expected}")
    _check_keys(label, overrides)
    groups = config_dir.resolve()
    folder, name = (path.parent, path.stem) if is_own else (groups, f"train/{path.stem}")
    search = ["hydra.searchpath=['file://{}']".format(str(groups).replace("'", "\\'"))] if is_own else []
    # Both libraries raise kinds of their own, and whatever an override makes of their parser.
    with explained(f"{label}: ", Exception):
        with initialize_config_dir(str(folder), version_base="1.3"):
            document: Any = OmegaConf.to_container(compose(name, [*search, *overrides]), resolve=True)
    return _parse(document, f"{name}.yaml")


def _parse(document: Any, where: str) -> TrainConfig:
    for key, _ in leaves(document, ""):
        _check_renamed(where, key)
    if isinstance(document, dict) and isinstance(bags := document.get("bags"), str):
        document["bags"] = [bags] if bags else []
    if isinstance(document, dict) and "policy" in document:
        policy = document["policy"] = read_policy_config(document["policy"], f"{where}.policy")
        settings_type = family_of(policy).processor_class().settings_type
        if settings_type is not None:
            document["processor"] = parse_config(settings_type, document.get("processor"), f"{where}.processor")
    return parse_config(TrainConfig, document, where)


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """So that its run can go on from anywhere; what is on the hub, or a packaged robot's name, stays."""

    def settled(path: str) -> str:
        return str(Path(path).expanduser().resolve()) if path and not path.startswith(HUB_PREFIX) else path

    lesson = config.lesson and replace(config.lesson, demonstrations_dir=settled(config.lesson.demonstrations_dir))
    return replace(
        config,
        robot=settled(config.robot) if Path(config.robot).is_file() else config.robot,
        bags=tuple(str(Weighted.parse(text).at(settled)) for text in config.bags),
        sets=tuple(_settled_set(each, settled) for each in config.sets),
        run_dir=settled(config.run_dir),
        output_dir=settled(config.output_dir),
        start_from=settled(config.start_from),
        cache=config.cache if config.cache == CACHE_OFF else settled(config.cache),
        lesson=lesson,
    )


def _settled_set(each: SetConfig, settled: Callable[[str], str]) -> SetConfig:
    """Its space is a file, or a preset's name, which stays."""
    space = settled(each.space) if each.space and Path(each.space).expanduser().is_file() else each.space
    return replace(each, path=settled(each.path), space=space)


def to_yaml(config: TrainConfig) -> str:
    """Everything that ``config`` says, as a file that ``load_train_config`` reads."""
    return OmegaConf.to_yaml(OmegaConf.create(config_to_dict(config)))
