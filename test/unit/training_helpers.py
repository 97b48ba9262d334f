"""Training at a size that takes seconds."""

from __future__ import annotations

from dataclasses import replace

from safetensors.torch import load_file

from vla_ros.demo.lesson import lesson_of
from vla_ros.share import robot_file, share_dir
from vla_ros.sim.demonstrations import DemonstrationConfig
from vla_ros.training.config import load_train_config
from vla_ros.training.processes import joined
from vla_ros.training.run import train

EPISODES = DemonstrationConfig(num_episodes=6, seed=3, tail_s=2.08)
SMALL = {
    "start_from": "''",
    "policy.vlm_config.text_config.intermediate_size": 64,
    "policy.action_expert_cfg.hidden_size": 32,
    "policy.action_expert_cfg.intermediate_size": 32,
    "optimizer.num_steps": 4,
    "optimizer.batch_size": 8,
    "optimizer.warmup_steps": 2,
    "validation_share": 0.2,
    "validate_every": 2,
    "checkpoint_every": 2,
    "num_workers": 1,
    "num_threads": 1,
    "device": "cpu",
}


def small_config(tmp_path, bags, *overrides):
    """``overrides`` stand in the place of those in ``SMALL``."""
    return load_train_config(share_dir() / "config", "tiny_touch", small_overrides(tmp_path, bags, *overrides))


def small_overrides(tmp_path, bags, *overrides):
    """Of ``small_config``."""
    places = {"bags": bags[0].parent, "run_dir": tmp_path / "run", "output_dir": tmp_path / "policy"}
    given = {key.lstrip("+"): text for text in overrides for key in [text.partition("=")[0]]}
    kept = [f"{key}={value}" for key, value in {**places, **SMALL}.items() if key not in given]
    gone = [] if "~lesson" in given else ["~lesson.demonstrations"]
    return [*gone, *kept, *given.values()]


def run(config, report=lambda line: None):
    with joined() as processes:
        return train(config, robot_file("tabletop"), processes, report, lesson_of(config))


def stored_tensors(checkpoint):
    """Those of a checkpoint that one process wrote, by name."""
    return {name: value for file in checkpoint.glob("*.safetensors") for name, value in load_file(file).items()}


def train_briefly(config):
    """One step of ``config``, for what comes out of it."""
    optimizer = replace(config.optimizer, num_steps=1, batch_size=4)
    brief = replace(config, optimizer=optimizer, num_workers=1, num_threads=1, device="cpu")
    with joined() as processes:
        train(brief, robot_file("tabletop"), processes, lambda line: None)
