"""A SmolVLA of LeRobot: what its files and its backbone's say, as this package's configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from vla_ros.policies.families import find_config
from vla_ros.policies.importing import hub
from vla_ros.policies.importing.checkpoint import Checkpoint
from vla_ros.policies.importing.lerobot import ACTION, STATE, LeRobotCheckpoint, is_statistic, read_object
from vla_ros.policies.importing.settings import Imported, ImportSettings
from vla_ros.policies.importing.stored import fill_stored, open_stored
from vla_ros.policies.importing.tokenizer import find_tokenizer_file
from vla_ros.policies.modules.vlm_bridge.processor import read_int
from vla_ros.policies.modules.vlm_bridge.smolvlm.processor import AROUND_IMAGE, GLOBAL_IMAGE
from vla_ros.policies.smolvla.config import SmolVLAConfig
from vla_ros.policies.smolvla.processor import PictureConfig, SmolVLAProcessor
from vla_ros.policies.trials import LeRobotForm
from vla_ros.strict import explained, quoted
from vla_ros.transforms.tokenizer import read_tokenizer

BACKBONE = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"  # its sizes are those of the configuration smolvla
UNSUPPORTED = ("adapt_to_pi_aloha", "use_delta_joint_actions_aloha")
TOKENIZER_CONFIG = "tokenizer_config.json"
# (theirs, ours); None for what nobody reads.
PREFIXES = (
    ("vlm_with_expert.vlm.lm_head.", None),
    ("vlm_with_expert.vlm.model.", "vlm."),
    ("vlm_with_expert.lm_expert.", "expert."),
)


def import_lerobot(checkpoint: LeRobotCheckpoint, settings: ImportSettings) -> Imported:
    """Raises ValueError for what isn't a whole SmolVLA, computes what isn't computed here, or doesn't fit
    ``settings``."""
    stored = open_stored(checkpoint.weights, _our_name)
    cameras = [settings.cameras[each.key] for each in checkpoint.cameras if each.key in settings.cameras]
    if not cameras:
        slots = ", ".join(quoted(each.key) for each in checkpoint.cameras) or "none: its features name no camera"
        raise ValueError(f"{checkpoint.folder}: none of its pictures has a camera; give --camera SLOT=NAME for {slots}")
    step = checkpoint.steps.get("tokenizer_processor", {})
    name = str(step.get("tokenizer_name") or checkpoint.config.get("vlm_model_name") or BACKBONE)
    path = find_tokenizer_file(checkpoint.folder, name, settings.tokenizer)
    tokenizer = read_tokenizer(path, str(path))
    num_missing = sum(each.kind == "VISUAL" for each in checkpoint.inputs) - len(cameras) - len(settings.black)
    config = make_config(checkpoint, stored, find_vlm(checkpoint, settings.vlm), tokenizer, num_missing)
    config = replace(config, cuts_left=_cuts_left(path, name))
    state, action = checkpoint.normalization(STATE), checkpoint.normalization(ACTION)
    keys = [each.key for each in checkpoint.cameras]
    data = settings.data_config(keys, config.action_horizon, action.mode, state.mode)
    pictures = PictureConfig(tuple((camera.height, camera.width) for camera in cameras))
    stats = {"state": state.rows(1), "action": action.rows(config.action_horizon)}
    processor = SmolVLAProcessor(config, data, pictures, tokenizer, stats)
    return Imported(fill_stored(config, checkpoint.weights, stored, "SmolVLA"), processor, stored.memory)


def make_config(
    checkpoint: LeRobotCheckpoint, stored: Checkpoint, vlm: Mapping[str, Any], tokenizer: Tokenizer, num_missing: int
) -> SmolVLAConfig:
    """The ``policy:`` group; ``num_missing`` cameras have no picture. Raises ValueError for what this package doesn't
    compute."""
    config, number, step = checkpoint.config, checkpoint.number, checkpoint.steps.get("tokenizer_processor", {})
    for key in UNSUPPORTED:
        if config.get(key):
            raise ValueError(f"{checkpoint.folder}: config.json has {key} on, which isn't computed here; serve it")
    side = read_int(vlm, "vision_config", "image_size")
    if config.get("resize_imgs_with_padding", [side, side]) != [side, side]:
        got = f"resize_imgs_with_padding is {quoted(repr(config['resize_imgs_with_padding']))}"
        raise ValueError(f"{checkpoint.folder}: {got}; expected {[side, side]}, the size of its vision tower: serve it")
    is_cross, every = "cross" in str(config.get("attention_mode", "cross_attn")), config.get("self_attn_every_n_layers")
    has_tokens = bool(config.get("add_image_special_tokens", False))
    return SmolVLAConfig(
        type="SmolVLAPolicy",
        vlm_config=vlm,
        action_horizon=number("chunk_size", 50),
        action_dim=checkpoint.feature(ACTION).shape[0],
        state_dim=checkpoint.feature(STATE).shape[0],
        max_action_dim=_shape(checkpoint, stored, "action_in_proj.weight")[1],
        max_state_dim=_shape(checkpoint, stored, "state_proj.weight")[1],
        num_vlm_layers=_count(stored, "vlm.text_model.layers"),
        num_expert_layers=_count(stored, "expert.layers"),
        expert_hidden_size=_shape(checkpoint, stored, "action_in_proj.weight")[0],
        expert_intermediate_size=_shape(checkpoint, stored, "expert.layers.0.mlp.gate_proj.weight")[0],
        self_attention_every=(every if type(every) is int and every > 0 else 0) if is_cross else 1,
        max_tokens=step.get("max_length", number("tokenizer_max_length", 48)),
        image_tokens=_image_tokens(tokenizer) if has_tokens else (),
        num_empty_cameras=min(number("empty_cameras", 0, low=0), num_missing) if has_tokens else 0,
        num_steps=number("num_steps", 10),
        min_period=float(config.get("min_period", 4e-3)),
        max_period=float(config.get("max_period", 4.0)),
        train_expert_only=bool(config.get("train_expert_only", True)),
    )


def as_lerobot(config: SmolVLAConfig) -> LeRobotForm:
    """The same policy in LeRobot, an instruction padded as its released base pads it. Raises ValueError for image
    tokens without a camera, whose number LeRobot counts otherwise."""
    if config.num_empty_cameras:
        raise ValueError(f"policy.num_empty_cameras is {config.num_empty_cameras}; expected 0 to run it in LeRobot")
    width = read_int(config.vlm_config, "text_config", "hidden_size")
    side = read_int(config.vlm_config, "vision_config", "image_size")
    settings = {
        "chunk_size": config.action_horizon,
        "n_action_steps": config.action_horizon,
        "max_state_dim": config.max_state_dim,
        "max_action_dim": config.max_action_dim,
        "resize_imgs_with_padding": (side, side),
        "tokenizer_max_length": config.max_tokens,
        "num_steps": config.num_steps,
        "load_vlm_weights": False,
        "add_image_special_tokens": bool(config.image_tokens),
        "attention_mode": "self_attn" if config.self_attention_every == 1 else "cross_attn",
        "num_expert_layers": config.num_expert_layers,
        "num_vlm_layers": config.num_vlm_layers,
        "self_attn_every_n_layers": config.self_attention_every,
        "expert_width_multiplier": config.expert_hidden_size / width,
        "min_period": config.min_period,
        "max_period": config.max_period,
    }
    backbone = {"vlm": config.vlm_config, "image_tokens": config.image_tokens}
    return LeRobotForm("smolvla", settings, _our_name, backbone, config.max_tokens)


def find_vlm(checkpoint: LeRobotCheckpoint, given: str | None) -> Mapping[str, Any]:
    """The backbone's config.json: ``given`` by the user, a file or a folder, else that of the name in the checkpoint.

    Raises ValueError where it can't be had.
    """
    if given is not None:
        path = Path(given).expanduser()
        return read_object(path / "config.json" if path.is_dir() else path)
    name = str(checkpoint.config.get("vlm_model_name") or BACKBONE)
    if name == BACKBONE:
        published = find_config("smolvla")
        assert isinstance(published, SmolVLAConfig)
        return published.vlm_config
    if not hub.is_repo(name):
        got = f"vlm_model_name is '{quoted(name)}'"
        raise ValueError(f"{checkpoint.folder}: {got}; give the backbone's config.json with --vlm PATH")
    return read_object(hub.fetch_file(name, "config.json"))


def _cuts_left(tokenizer: Path, name: str) -> bool:
    """Whether its settings cut what is too long at its beginning; raises ValueError where these are nowhere."""
    path = tokenizer.with_name(TOKENIZER_CONFIG)
    if not path.is_file():
        with explained(f"{path} is missing, which says where a long instruction is cut; put it there: "):
            path = hub.fetch_file(name, TOKENIZER_CONFIG)
    return read_object(path).get("truncation_side") == "left"


def _image_tokens(tokenizer: Tokenizer) -> tuple[int, ...]:
    ids = [tokenizer.token_to_id(token) for token in (AROUND_IMAGE, GLOBAL_IMAGE)]
    if None in ids:
        raise ValueError(
            f"the tokenizer lacks {AROUND_IMAGE} or {GLOBAL_IMAGE}; give that of the backbone: --tokenizer"
        )
    return tuple(ids)


def _shape(checkpoint: LeRobotCheckpoint, stored: Checkpoint, name: str) -> Sequence[int]:
    weight = stored.weights.get(name)
    if weight is None or weight.ndim != 2:
        raise ValueError(f"{checkpoint.weights}: the weight {name} is missing; give a whole SmolVLA")
    return weight.shape


def _count(stored: Checkpoint, stack: str) -> int:
    found = re.compile(rf"{re.escape(stack)}\.(\d+)\.")
    return 1 + max((int(match[1]) for name in stored.weights if (match := found.match(name))), default=0)


def _our_name(name: str) -> str | None:
    """None for what nobody reads here; a name that isn't known stays, and is refused by it."""
    if is_statistic(name):
        return None
    name = name.replace("._orig_mod", "").removeprefix("_orig_mod.").removeprefix("model.")
    for theirs, ours in PREFIXES:
        if name.startswith(theirs):
            return None if ours is None else ours + name.removeprefix(theirs)
    return quoted(name)
