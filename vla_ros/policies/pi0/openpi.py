"""A pi0 or pi0.5 of openpi, converted to PyTorch: what its files say, as this package's configuration.

How it is normalised follows from what it is, z-scores for pi0 and quantiles for pi0.5, as openpi's training does it.
Cameras, delta actions and the robot's own turns of joints and grippers are in no file: they are the space's.
"""

from __future__ import annotations

from vla_ros.policies.importing.openpi import CAMERAS, OpenPiCheckpoint
from vla_ros.policies.importing.settings import Imported, ImportSettings
from vla_ros.policies.importing.tokenizer import find_tokenizer
from vla_ros.policies.pi0.config import Pi0Config
from vla_ros.policies.pi0.processor import Pi0Processor, Pi0Settings
from vla_ros.policies.pi0.weights import load_stored, read_stored

NORMALIZATION = {"pi0": "openpi_mean_std", "pi05": "openpi_quantile"}
MAX_TOKENS = {"pi0": 48, "pi05": 200}
HORIZON, MAX_HORIZON = 50, 1000
TOKENIZER = "google/paligemma-3b-pt-224"


def import_openpi(checkpoint: OpenPiCheckpoint, settings: ImportSettings) -> Imported:
    """Raises ValueError for what isn't a whole pi0 or doesn't fit ``settings``."""
    stored = read_stored(checkpoint.weights)
    sizes, horizon = stored.sizes(), checkpoint.config.get("action_horizon", HORIZON)
    if type(horizon) is not int or not 1 <= horizon <= MAX_HORIZON:
        raise ValueError(f"{checkpoint.folder}: action_horizon is {horizon!r}; expected 1 to {MAX_HORIZON} actions")
    if stored.variant == "pi0" and not settings.tells_state:
        raise ValueError("--no-state-in-prompt is not for a pi0, whose prompt never tells the state; leave it out")
    cameras = [settings.cameras[slot] for slot in CAMERAS if slot in settings.cameras]
    data = settings.data_config(CAMERAS, horizon, NORMALIZATION[stored.variant])
    config = Pi0Config(
        type="Pi0Policy",
        variant=stored.variant,
        action_horizon=horizon,
        action_dim=data.action_space.size,
        state_dim=data.state_space.size,
        time_rule="sum",
        **vars(sizes),
    )
    processor = Pi0Processor(
        config=config,
        data=data,
        settings=Pi0Settings(
            rules="openpi",
            max_tokens=MAX_TOKENS[stored.variant],
            num_prompt_states=config.state_dim if settings.tells_state else 0,
            camera_sizes=tuple((camera.height, camera.width) for camera in cameras),
        ),
        tokenizer=find_tokenizer(checkpoint.folder, TOKENIZER, settings.tokenizer),
        stats={
            "state": checkpoint.field_stats("state", config.state_dim, 1),
            "action": checkpoint.field_stats("actions", config.action_dim, horizon),
        },
    )
    policy, memory = load_stored(stored, config)
    return Imported(policy, processor, memory)
