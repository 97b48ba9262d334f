"""Small policies that an installed LeRobot makes, and what imports them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from vla_ros.cli import main
from vla_ros.policies.lerobot.running import seeded
from vla_ros.types import Observation

ROBOT = Path(__file__).parents[1] / "data" / "three_joints.yaml"
KEPT = Path(__file__).parents[1] / "data" / "lerobot_parity"
ACT, SMOLVLA = KEPT / "act_chunk" / "checkpoint", KEPT / "smolvla_base"
JOINTS = ["base", "shoulder", "wrist"]
FRONT, TOP = "observation.images.front", "observation.images.top"
SPACE: dict[str, Any] = {
    "chunk_dt_s": 0.1,
    "state": [{"type": "joints", "joints": JOINTS, "unit": "deg"}],
    "action": [{"type": "joints", "joints": JOINTS, "unit": "deg"}],
    "cameras": [{"key": FRONT, "camera": "front"}, {"key": TOP, "camera": "top"}],
}
BEFORE = "policy_preprocessor.json"
SMALL: dict[str, dict[str, Any]] = {
    "act": {
        "pretrained_backbone_weights": None,
        "chunk_size": 10,
        "n_action_steps": 5,
        "dim_model": 16,
        "n_heads": 2,
        "dim_feedforward": 16,
        "n_encoder_layers": 1,
        "use_vae": False,
    },
    "diffusion": {
        "pretrained_backbone_weights": None,
        "horizon": 8,
        "n_action_steps": 6,
        "down_dims": (16, 32),
        "diffusion_step_embed_dim": 16,
        "n_groups": 4,
        "spatial_softmax_num_keypoints": 4,
        "num_train_timesteps": 10,
        "num_inference_steps": 3,
        "use_group_norm": True,
    },
}
HORIZONS = {"act": 10, "diffusion": 6}
NEEDS = {"act": "lerobot", "diffusion": "diffusers"}


def require(kind: str) -> None:
    for package in ("lerobot", NEEDS[kind]):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}: the extra lerobot, and lerobot[diffusion] for diffusion")


needs_lerobot = pytest.mark.skipif(find_spec("lerobot") is None, reason="needs LeRobot: the extra lerobot")


@dataclass(frozen=True)
class Made:
    """A checkpoint in LeRobot's own hands."""

    folder: Path
    policy: Any
    before: Any
    after: Any


def make(folder: Path, kind: str) -> Made:
    """A small policy of LeRobot with random weights, saved by LeRobot."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies import get_policy_class, make_policy_config
    from lerobot.policies.factory import make_pre_post_processors

    pictures = {key: PolicyFeature(FeatureType.VISUAL, (3, 24, 32)) for key in (FRONT, TOP)}
    inputs = {"observation.state": PolicyFeature(FeatureType.STATE, (3,)), **pictures}
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (3,))}
    config = make_policy_config(kind, input_features=inputs, output_features=outputs, device="cpu", **SMALL[kind])
    config.normalization_mapping = dict.fromkeys(config.normalization_mapping, "MEAN_STD")
    rng = np.random.default_rng(0)
    stats = {
        key: {"mean": rng.uniform(-9, 9, 3), "std": rng.uniform(5, 9, 3)} for key in ("observation.state", "action")
    }
    stats |= {key: {"mean": np.full((3, 1, 1), 0.4), "std": np.full((3, 1, 1), 0.3)} for key in pictures}
    stats = {key: {name: array.astype(np.float32) for name, array in each.items()} for key, each in stats.items()}
    with seeded(0, torch.device("cpu")):
        policy = get_policy_class(kind)(config).eval()
    before, after = make_pre_post_processors(config, dataset_stats=stats)
    for each in (policy, before, after):
        each.save_pretrained(folder)
    document = json.loads((folder / "config.json").read_text())
    document["pretrained_backbone_weights"] = "ResNet18_Weights.IMAGENET1K_V1"  # as released ones have it
    (folder / "config.json").write_text(json.dumps(document))
    return Made(folder, policy, before, after)


def do_import(source: Path, out: Path, *options: str, space: Any = SPACE) -> int:
    path = out.parent / "space.yaml"
    path.write_text(yaml.safe_dump(space))
    given = ["--runner", "lerobot", "--robot", str(ROBOT), "--space", str(path)]
    return main(["import", str(source), str(out), *given, *options])


def refusal(capsys: pytest.CaptureFixture[str], source: Path, out: Path, *options: str, **changes: Any) -> str:
    assert do_import(source, out, *options, **changes) == 2
    *told, message = capsys.readouterr().err.splitlines()  # LeRobot tells this and that before
    assert message.startswith("vla_ros import: ") and not any("Traceback" in line for line in told)
    assert not out.exists(), "something was left behind"
    return message


def observation(seed: int = 1) -> Observation:
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (24, 32, 3), np.uint8) for name in ("front", "top")}
    return Observation(seed, dict.fromkeys(images, seed), images, rng.uniform(-0.3, 0.3, 3), "touch the röd block")


def edit(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
