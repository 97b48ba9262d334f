"""LeRobot's tiny checkpoints of SmolVLA and ACT among the test data, and what a robot says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vla_ros.policies.act.lerobot import import_lerobot as import_act
from vla_ros.policies.importing.lerobot import read_lerobot
from vla_ros.policies.importing.settings import CameraSettings, Imported, ImportSettings
from vla_ros.policies.smolvla.lerobot import import_lerobot as import_smolvla

KEPT = Path(__file__).resolve().parents[1] / "data" / "lerobot_parity"
FRONT, WRIST = "observation.images.front", "observation.images.wrist"
FOLDERS = {"act": "act_chunk", "smolvla": "smolvla_base"}
KINDS = tuple(FOLDERS)
CAMERAS = {
    "act": {FRONT: CameraSettings("top", 96, 128), WRIST: CameraSettings("hand", 96, 128)},
    "smolvla": {"observation.images.camera1": CameraSettings("top", 480, 640)},
}
IMPORT = {"act": import_act, "smolvla": import_smolvla}


def settings(kind: str, **changes: Any) -> ImportSettings:
    folder = KEPT / FOLDERS[kind]
    given = ImportSettings(tuple(f"joint{i}" for i in range(6)), CAMERAS[kind], 1 / 30)
    return replace(given, **{"tokenizer": str(folder / "tokenizer"), "vlm": str(folder / "vlm"), **changes})


def take(kind: str, folder: Path | None = None, **changes: Any) -> Imported:
    """The checkpoint in ``folder``, by default the one among the test data."""
    return IMPORT[kind](read_lerobot(folder or KEPT / FOLDERS[kind] / "checkpoint"), settings(kind, **changes))
