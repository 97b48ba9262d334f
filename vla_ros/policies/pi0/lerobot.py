"""A pi0 or pi0.5 of LeRobot: what its files say, as this package's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from tokenizers import Tokenizer

from vla_ros.policies.importing.lerobot import ACTION, STATE, LeRobotCheckpoint
from vla_ros.policies.importing.settings import Imported, ImportSettings
from vla_ros.policies.importing.tokenizer import find_tokenizer
from vla_ros.policies.pi0.config import Pi0Config
from vla_ros.policies.pi0.processor import DEFAULT_MAX_TOKENS, Pi0Processor, Pi0Settings
from vla_ros.policies.pi0.weights import StoredSizes, load_stored, our_name, read_stored
from vla_ros.policies.trials import LeRobotForm
from vla_ros.strict import parse_config

UNSUPPORTED = ("use_visual_memory", "use_proprioceptive_memory", "adapt_to_pi_aloha")


def import_lerobot(checkpoint: LeRobotCheckpoint, settings: ImportSettings) -> Imported:
    """Raises ValueError for what isn't a whole pi0, sees more than is computed here, or doesn't fit ``settings``."""
    stored = read_stored(checkpoint.weights, checkpoint.type)
    config = make_config(checkpoint, stored.sizes(), settings.lerobot_version)
    keys = [each.key for each in checkpoint.cameras]
    cameras = [settings.cameras[key] for key in keys if key in settings.cameras]
    state, action = checkpoint.normalization(STATE), checkpoint.normalization(ACTION)
    processor = Pi0Processor(
        config=config,
        data=settings.data_config(keys, config.action_horizon, action.mode, state.mode),
        settings=make_settings(checkpoint, config, settings, [(camera.height, camera.width) for camera in cameras]),
        tokenizer=read_tokenizer_of(checkpoint, settings),
        stats={"state": state.rows(1), "action": action.rows(config.action_horizon)},
    )
    policy, memory = load_stored(stored, config)
    return Imported(policy, processor, memory)


def make_config(checkpoint: LeRobotCheckpoint, sizes: StoredSizes, version: str) -> Pi0Config:
    """The ``policy:`` group. Raises ValueError for what this package doesn't compute."""
    for key in UNSUPPORTED:
        if checkpoint.config.get(key):
            raise ValueError(f"{checkpoint.folder}: config.json has {key} on, which isn't computed here; serve it")
    number, side = checkpoint.number, sizes.vision.image_size
    given = checkpoint.config.get("image_resolution", [side, side])
    if given != [side, side]:
        got = f"the tower sees {side}x{side} pixels, config.json says {given}"
        raise ValueError(f"{checkpoint.folder}: {got}; expected a square of the tower's size")
    periods = {key: checkpoint.config[key] for key in ("min_period", "max_period") if key in checkpoint.config}
    document = {
        "type": "Pi0Policy",
        "variant": checkpoint.type,
        "action_horizon": number("n_action_steps" if version == "0.3" else "chunk_size", 50),
        "action_dim": checkpoint.feature(ACTION).shape[0],
        "state_dim": checkpoint.feature(STATE).shape[0],
        "num_steps": number("num_inference_steps", number("num_steps", 10)),
        "time_rule": "sum" if version == "0.3" else "product",
        "max_frozen_actions": number("rtc_training_max_delay", 0, low=0),
    }
    return parse_config(Pi0Config, document | periods | vars(sizes), f"{checkpoint.folder}: config.json")


def as_lerobot(config: Pi0Config) -> LeRobotForm:
    """The same policy in LeRobot. Raises ValueError for the sum of times that openpi and LeRobot 0.3 have."""
    if config.time_rule != "product":
        raise ValueError(f"policy.time_rule is '{config.time_rule}'; expected product: LeRobot has no other now")
    side, num_tokens = config.vision.image_size, DEFAULT_MAX_TOKENS[config.variant]
    settings = {
        "chunk_size": config.action_horizon,
        "n_action_steps": config.action_horizon,
        "max_state_dim": config.padded_state_dim,
        "max_action_dim": config.padded_action_dim,
        "num_inference_steps": config.num_steps,
        "image_resolution": (side, side),
        "tokenizer_max_length": num_tokens,
        "min_period": config.min_period,
        "max_period": config.max_period,
    }
    backbone = {
        "gemma_2b": asdict(config.text),
        "gemma_300m": asdict(config.expert),
        "vision": asdict(config.vision),
        "vocab_size": config.vocab_size,
    }

    def here(name: str) -> str | None:
        return our_name(name.removeprefix("model."), config.variant)

    return LeRobotForm(config.variant, settings, here, backbone, num_tokens)


def make_settings(
    checkpoint: LeRobotCheckpoint, config: Pi0Config, settings: ImportSettings, camera_sizes: list[tuple[int, int]]
) -> Pi0Settings:
    """``processor.json``."""
    step, version = checkpoint.steps.get("tokenizer_processor", {}), settings.lerobot_version
    if checkpoint.steps.get("pi05_prepare_state_tokenizer_processor_step", {}).get("include_state_in_prompt") is False:
        raise ValueError(f"{checkpoint.folder}: its prompt leaves the state out in LeRobot's way, which isn't computed")
    default = checkpoint.number("tokenizer_max_length", DEFAULT_MAX_TOKENS[config.variant])
    document = {
        "rules": f"lerobot-{version}",
        "max_tokens": step.get("max_length", default),
        "num_prompt_states": config.padded_state_dim if version == "0.4" else config.state_dim,
        "camera_sizes": camera_sizes,
    }
    return parse_config(Pi0Settings, document, f"{checkpoint.folder}: tokenizer_processor")


def read_tokenizer_of(checkpoint: LeRobotCheckpoint, settings: ImportSettings) -> Tokenizer:
    """The tokenizer that the checkpoint names, from its own folder, from ``settings`` or from the hub."""
    step: Mapping[str, object] = checkpoint.steps.get("tokenizer_processor", {})
    name = str(step.get("tokenizer_name") or "google/paligemma-3b-pt-224")
    return find_tokenizer(checkpoint.folder, name, settings.tokenizer)
