"""An ACT policy of LeRobot: what its files say, as this package's configuration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vla_ros.policies.act.config import ActConfig, CameraInput
from vla_ros.policies.act.processor import ActProcessor
from vla_ros.policies.importing.checkpoint import Checkpoint
from vla_ros.policies.importing.lerobot import ACTION, STATE, LeRobotCheckpoint, is_statistic
from vla_ros.policies.importing.settings import Imported, ImportSettings
from vla_ros.policies.importing.stored import fill_stored, open_stored
from vla_ros.policies.trials import LeRobotForm
from vla_ros.strict import quoted
from vla_ros.transforms.normalize import LEROBOT_EPSILON

PUBLISHED_WIDTH = 64  # of every ResNet's first convolution
COMPUTED = "vae_encoder_pos_enc"  # stored, but follows from the sizes


def import_lerobot(checkpoint: LeRobotCheckpoint, settings: ImportSettings) -> Imported:
    """Raises ValueError for what isn't a whole ACT policy, sees more than is computed here, or doesn't fit
    ``settings``."""
    stored = open_stored(checkpoint.weights, _our_name)
    config = make_config(checkpoint, stored)
    _check_cameras(checkpoint, config, settings)
    action, keys, stats = checkpoint.normalization(ACTION), [each.key for each in checkpoint.cameras], {}
    data = settings.data_config(keys, config.action_horizon, action.mode)
    if config.state_history:
        state = checkpoint.normalization(STATE)
        data, stats["state"] = replace(data, state_normalization=state.mode), state.rows(1)
    else:
        data = replace(data, state_history=0)
    processor = ActProcessor(config, data, {**stats, "action": action.rows(config.action_horizon)})
    policy = fill_stored(config, checkpoint.weights, stored, "ACT policy")
    return Imported(policy, processor, stored.memory)


def make_config(checkpoint: LeRobotCheckpoint, stored: Checkpoint) -> ActConfig:
    """The ``policy:`` group. Raises ValueError for what this package doesn't compute."""
    if not checkpoint.cameras:
        raise ValueError(f"{checkpoint.folder}: its features name no camera; expected at least one picture to see")
    unknown = [each for each in checkpoint.inputs if each.kind not in ("STATE", "VISUAL")]
    if unknown:
        got = f"the input '{quoted(unknown[0].key)}' is of kind {quoted(unknown[0].kind)}"
        raise ValueError(f"{checkpoint.folder}: {got}, which no robot measures; expected states and pictures: serve it")
    if checkpoint.number("n_obs_steps", 1) != 1:
        raise ValueError(f"{checkpoint.folder}: config.json has n_obs_steps above 1; expected 1, what ACT is made for")
    first, number, config = stored.weights.get("backbone.conv1.weight"), checkpoint.number, checkpoint.config
    if first is None or first.ndim != 4:
        raise ValueError(
            f"{checkpoint.weights}: the weight model.backbone.conv1.weight is missing; give a whole ACT policy"
        )
    has_state = any(each.key == STATE for each in checkpoint.inputs)
    return ActConfig(
        type="ActPolicy",
        cameras=tuple(_camera_input(checkpoint, each.key) for each in checkpoint.cameras),
        action_horizon=number("chunk_size", 100),
        action_dim=checkpoint.feature(ACTION).shape[0],
        state_dim=checkpoint.feature(STATE).shape[0] if has_state else 1,
        state_history=int(has_state),
        backbone=str(config.get("vision_backbone", "resnet18")),
        backbone_width=first.shape[0],
        dilate_last=bool(config.get("replace_final_stride_with_dilation", False)),
        hidden_size=number("dim_model", 512),
        num_heads=number("n_heads", 8),
        feedforward_size=number("dim_feedforward", 3200),
        feedforward_activation=str(config.get("feedforward_activation", "relu")),
        pre_norm=bool(config.get("pre_norm", False)),
        num_encoder_layers=number("n_encoder_layers", 4),
        num_decoder_layers=number("n_decoder_layers", 1),
        use_vae=bool(config.get("use_vae", True)),
        latent_dim=number("latent_dim", 32),
        num_vae_encoder_layers=number("n_vae_encoder_layers", 4),
        kl_weight=float(config.get("kl_weight", 10.0)),
        dropout=float(config.get("dropout", 0.1)),
    )


def as_lerobot(config: ActConfig) -> LeRobotForm:
    """The same policy in LeRobot. Raises ValueError for a width of the backbone that isn't the published one."""
    if config.backbone_width != PUBLISHED_WIDTH:
        got = f"policy.backbone_width is {config.backbone_width}"
        raise ValueError(f"{got}; expected {PUBLISHED_WIDTH}: LeRobot builds no other {config.backbone}")
    settings = {
        "chunk_size": config.action_horizon,
        "n_action_steps": config.action_horizon,
        "vision_backbone": config.backbone,
        "pretrained_backbone_weights": None,
        "replace_final_stride_with_dilation": config.dilate_last,
        "pre_norm": config.pre_norm,
        "dim_model": config.hidden_size,
        "n_heads": config.num_heads,
        "dim_feedforward": config.feedforward_size,
        "feedforward_activation": config.feedforward_activation,
        "n_encoder_layers": config.num_encoder_layers,
        "n_decoder_layers": config.num_decoder_layers,
        "use_vae": config.use_vae,
        "latent_dim": config.latent_dim,
        "n_vae_encoder_layers": config.num_vae_encoder_layers,
    }
    pictures = tuple((tuple(camera.mean), tuple(camera.std)) for camera in config.cameras)
    return LeRobotForm("act", settings, _our_name, pictures=pictures)


def _camera_input(checkpoint: LeRobotCheckpoint, key: str) -> CameraInput:
    """Statistics of pictures as a mean and a std, whatever their mode."""
    shape, normalization = checkpoint.feature(key).shape, checkpoint.normalization(key)
    if len(shape) != 3 or shape[0] != 3:
        raise ValueError(f"{checkpoint.folder}: '{quoted(key)}' has shape {list(shape)}; expected [3, height, width]")
    stats = normalization.stats
    mean, std = np.zeros(3, np.float32), np.ones(3, np.float32)
    if normalization.mode == "lerobot_mean_std":
        mean, std = stats.mean, stats.std + np.float32(LEROBOT_EPSILON)
    elif normalization.mode == "lerobot_range":
        mean, std = (stats.q01 + stats.q99) / 2, np.maximum(stats.q99 - stats.q01, np.float32(LEROBOT_EPSILON)) / 2
    return CameraInput((shape[1], shape[2]), tuple(mean.tolist()), tuple(std.tolist()))


def _check_cameras(checkpoint: LeRobotCheckpoint, config: ActConfig, settings: ImportSettings) -> None:
    """Raises ValueError where one of the policy's cameras is missing or has another size than in training."""
    for feature, camera in zip(checkpoint.cameras, config.cameras, strict=True):
        given = settings.cameras.get(feature.key)
        if given is None:
            slot = quoted(feature.key)
            raise ValueError(f"'{slot}' has no camera, and ACT needs each it was trained on; give --camera {slot}=NAME")
        if (given.height, given.width) != tuple(camera.size):
            got = f"camera '{given.name}' gives {given.height}x{given.width} pixels"
            height, width = camera.size
            fix = "set the camera to that: an ACT policy resizes nothing"
            raise ValueError(f"{got}, '{quoted(feature.key)}' was {height}x{width} in training; {fix}")


def _our_name(name: str) -> str | None:
    """None for what is no weight; a name that isn't known stays, and is refused by it."""
    if is_statistic(name):
        return None
    name = name.replace("._orig_mod", "").removeprefix("_orig_mod.").removeprefix("model.")
    return None if name == COMPUTED or name.endswith(".num_batches_tracked") else quoted(name)
