"""What is given as a policy directory and isn't one is named for what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ros.policies.files import load_processor


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        load_processor(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cfg.yaml": "", "model.pt": ""}, "is a released run: import it with vla_ros import"),
        ({"config.yaml": "", "versions.json": ""}, "is the run_dir of a training: give the output_dir"),
        ({"metadata.yaml": "", "bag_0.mcap": ""}, "is a rosbag: replay or train on it"),
        ({"bag_0.mcap": ""}, "is a rosbag"),
        ({"bag_0.db3": ""}, "is a rosbag"),
        (
            {"meta/info.json": "{}", "data/chunk-000/episode_000000.parquet": ""},
            "is a LeRobot data set: train or import a policy",
        ),
        ({"config.json": '{"type": "act"}', "model.safetensors": ""}, "is a LeRobot checkpoint (act)"),
        ({"train_config.json": "{}", "model.safetensors": ""}, "is a LeRobot checkpoint"),
        ({"pretrained_model/config.json": "{}", "training_state/step.json": ""}, "is a LeRobot checkpoint"),
        ({"params/_METADATA": "", "assets/trossen/norm_stats.json": "{}"}, "is an openpi checkpoint"),
        ({"model.safetensors": "", "assets/trossen/norm_stats.json": "{}"}, "is an openpi checkpoint"),
        ({"config.json": '{"model_type": "gr00t_n1_5"}', "model-00001-of-2.safetensors": ""}, "is a GR00T checkpoint"),
        ({"experiment_cfg/metadata.json": "{}"}, "is a GR00T checkpoint"),
        ({"config.json": '{"model_type": "qwen3_vl"}'}, "is a checkpoint of transformers (qwen3_vl)"),
        ({"config.json": '{"model_type": 3}'}, "file policy.yaml is missing"),
        ({"config.json": "[" * 100_000}, "file policy.yaml is missing"),
        ({"dataset_info.json": "{}", "features.json": "{}"}, "is a TensorFlow (RLDS) data set"),
    ],
)
def test_a_folder_of_another_kind_is_named(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert expected in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.pt", "is a torch checkpoint: import it"),
        ("model.safetensors", "is weights alone: give the folder of a policy"),
        ("policy.onnx", "is a network of another program"),
        ("run.mcap", "is a rosbag"),
        ("run.bag", "is a bag of ROS 1: convert it to rosbag2"),
        ("demo.hdf5", "is a data set"),
        ("policy.tar.gz", "is an archive: unpack it"),
        ("policy.yaml", "is a YAML file: give the folder that holds policy.yaml"),
        ("notes", "is a file: give the folder of a policy"),
    ],
)
def test_a_file_in_a_policys_place_is_named(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert expected in refusal(tmp_path / name)
