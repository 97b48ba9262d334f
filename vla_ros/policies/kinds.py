"""What a file or folder that isn't a policy directory is instead, by what lies in it: so that a refusal can name it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vla_ros.strict import parse_json, quoted, read_text

IMPORT = "import it with vla_ros import"
RECORDING = "replay or train on it with vla_ros replay or vla_ros train"
EXPORT = "train or import a policy for this package"
# A folder is the first that has all of its files or folders.
FOLDERS = (
    ("cfg.yaml model.pt", "a released run", IMPORT),
    ("cfg.yaml checkpoints", "a released run", IMPORT),
    ("config.yaml versions.json", "the run_dir of a training", "give the output_dir of vla_ros train"),
    ("metadata.yaml", "a rosbag", RECORDING),
    ("*.mcap", "a rosbag", RECORDING),
    ("*.db3", "a rosbag", RECORDING),
    ("meta/info.json", "a LeRobot data set", EXPORT),
    ("dataset_info.json features.json", "a TensorFlow (RLDS) data set", EXPORT),
    ("experiment_cfg", "a GR00T checkpoint", EXPORT),
    ("params/_METADATA", "an openpi checkpoint", IMPORT),
    ("params assets", "an openpi checkpoint", IMPORT),
    ("model.safetensors assets", "an openpi checkpoint", IMPORT),
    ("train_config.json", "a LeRobot checkpoint", IMPORT),
    ("pretrained_model", "a LeRobot checkpoint", IMPORT),
)
FILES = (
    (".pt .pth .ckpt .bin", "a torch checkpoint", IMPORT),
    (".safetensors", "weights alone", "give the folder of a policy, which has a policy.yaml"),
    (".onnx .gguf .engine .plan", "a network of another program", EXPORT),
    (".mcap .db3", "a rosbag", RECORDING),
    (".bag", "a bag of ROS 1", "convert it to rosbag2, then replay or train on that"),
    (".hdf5 .h5 .parquet .tfrecord", "a data set", EXPORT),
    (".zip .tar .tgz .gz .zst", "an archive", "unpack it, and give the folder"),
    (".yaml .yml", "a YAML file", "give the folder that holds policy.yaml"),
)


def kind_of(path: Path) -> str:
    """What ``path`` is and what to do with it, such as "is a rosbag: …"; empty where that isn't known."""
    if path.is_file():
        kinds = (f"is {what}: {fix}" for names, what, fix in FILES if path.suffix.lower() in names.split())
        return next(kinds, "is a file: give the folder of a policy")
    config = _read(path / "config.json")
    name, lerobot_name = (config.get("model_type"), config.get("type")) if isinstance(config, dict) else (None, None)
    if isinstance(name, str) and "gr00t" in name.lower():
        return f"is a GR00T checkpoint ({quoted(name)}): {EXPORT}"
    for names, what, fix in FOLDERS:
        if all(any(path.glob(name)) for name in names.split()):
            return f"is {what}: {fix}"
    if isinstance(name, str):
        return f"is a checkpoint of transformers ({quoted(name)}): {EXPORT}"
    return f"is a LeRobot checkpoint ({quoted(lerobot_name)}): {IMPORT}" if isinstance(lerobot_name, str) else ""


def _read(path: Path) -> Any:
    try:
        return parse_json(read_text(path))
    except (OSError, ValueError):
        return None
