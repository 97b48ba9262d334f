"""Configuration of a training run: ``config/train/*.yaml`` composed by Hydra, read strictly."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vla_ros.policies.config import DataConfig, PolicyConfig
from vla_ros.policies.families import family_of, read_policy_config
from vla_ros.strict import MAX_DEPTH, MAX_LINE, config_to_dict, explained, parse_config, parse_yaml, quoted, read_text
from vla_ros.training.episodes import EPISODES, INTERVENTIONS

RUN_CONFIG = "config.yaml"  # in a run's folder, all that it was started with


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and a cosine down to zero; ``ema_decay`` averages the weights that are exported."""

    num_steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98
    max_grad_norm: float = 1.0
    ema_decay: float = 0.998

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "warmup_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name} is {getattr(self, name)}; expected at least 1")
        if min(self.learning_rate, self.max_grad_norm) <= 0 or not 0 <= self.ema_decay < 1:
            raise ValueError("optimizer: learning_rate and max_grad_norm must be above 0 and ema_decay in 0..1")


@dataclass(frozen=True)
class SetConfig:
    """A LeRobot data set in the folder ``path``: what its numbers mean by ``space``, a preset or a file (empty: as it
    says itself, else joints in rad and m by name); the robot's camera by the set's, where names differ. A sample of it
    is drawn ``weight`` times as often as one of a bag."""

    path: str
    space: str = ""
    cameras: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"the weight of {self.path} is {self.weight:g}; expected at least 0")


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    ``bags`` are bags and folders of them (in a file one text will do), ``sets`` LeRobot data sets; nothing is written
    there. ``lesson`` names what
    is taught beside actions, ``demonstrations`` the bags it makes in ``demonstrations_dir``, which are made and read
    only where ``bags`` is empty; what both mean is for the command line to know. Every ``validate_every`` steps the run
    is judged on the last ``validation_share`` of the episodes, which it never trains on. ``run_dir`` holds checkpoints
    and the log, ``output_dir`` gets the policy directory. ``processor`` is what the family's processor takes from a
    train config (its ``settings_type``), ``vocab_size`` the size of a tokenizer that the lesson makes.

    ``initial_policy`` is a policy directory to go on from: its weights and its tokenizer, not its statistics. Empty
    starts from random weights; ``vision_pos_emb_init_gain`` is the standard deviation the vision tower's position
    embeddings have then.

    ``namespace`` is the one the bags were recorded in. ``episodes`` says what begins one: another instruction
    (``task``), or ``start`` on ``vla_policy/episode`` (``marker``); failed ones are left out unless ``keep_failures``.
    Interventions are what a human commanded in a bag in which the policy drove, too: ``interventions`` trains on
    ``all`` samples, on them ``only``, on all others (``exclude``), or draws them ``intervention_weight`` times as often
    (``upweight``).
    """

    robot: str
    bags: tuple[str, ...]
    run_dir: str
    output_dir: str
    policy: PolicyConfig
    data: DataConfig
    optimizer: OptimizerConfig
    sets: tuple[SetConfig, ...] = ()
    processor: object | None = None
    vocab_size: int = 0
    vision_pos_emb_init_gain: float = 0.02
    initial_policy: str = ""
    lesson: str = ""
    demonstrations: Mapping[str, Any] | None = None
    demonstrations_dir: str = ""
    namespace: str = ""
    episodes: str = "task"
    keep_failures: bool = False
    interventions: str = "all"
    intervention_weight: float = 2.0
    min_frame_gap_s: float = 0.0
    validation_share: float = 0.02
    validate_every: int = 250
    checkpoint_every: int = 250
    num_workers: int = 2
    num_threads: int = 2
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("episodes", EPISODES), ("interventions", INTERVENTIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is '{getattr(self, name)}'; expected one of {', '.join(choices)}")
        if self.intervention_weight <= 0:
            raise ValueError(f"intervention_weight is {self.intervention_weight:g}; expected a number above 0")
        from_one = ("validate_every", "checkpoint_every", "num_threads")
        for name in (*from_one, "seed", "min_frame_gap_s", "validation_share"):
            if getattr(self, name) < (least := int(name in from_one)):
                raise ValueError(f"{name} is {getattr(self, name):g}; expected at least {least}")
        if self.keep_failures and self.episodes != "marker":
            raise ValueError(f"episodes is '{self.episodes}'; expected marker with keep_failures")
        if self.interventions != "upweight" and self.intervention_weight != TrainConfig.intervention_weight:
            raise ValueError(f"interventions is '{self.interventions}'; expected upweight with intervention_weight")


def _check_keys(label: str, overrides: Sequence[str]) -> None:
    """Of a key that is given twice Hydra takes the last, and settings of its own do nothing here."""
    keys = [text.lstrip("+~").partition("=")[0] for text in overrides]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"{label}: override '{quoted(key)}' is given twice; remove one")
        if key.startswith("hydra"):
            raise ValueError(f"{label}: override '{quoted(key)}' is Hydra's own; expected a key of the config")


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
    if isinstance(document, dict) and isinstance(bags := document.get("bags"), str):
        document["bags"] = [bags] if bags else []
    if isinstance(document, dict) and "policy" in document:
        policy = document["policy"] = read_policy_config(document["policy"], f"{where}.policy")
        settings_type = family_of(policy).processor_class().settings_type
        if settings_type is not None:
            document["processor"] = parse_config(settings_type, document.get("processor"), f"{where}.processor")
    return parse_config(TrainConfig, document, where)


def to_yaml(config: TrainConfig) -> str:
    """Everything that ``config`` says, as a file that ``load_train_config`` reads."""
    return OmegaConf.to_yaml(OmegaConf.create(config_to_dict(config)))
