"""``vla_ros parity``: a checkpoint against what its reference recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from safetensors.numpy import load_file, save_file  # noqa: E402

from vla_ros.cli import main  # noqa: E402

CASES = Path(__file__).resolve().parents[1] / "data" / "pi_parity"


@pytest.fixture
def case(tmp_path: Path) -> Path:
    folder = tmp_path / "case"
    shutil.copytree(CASES / "qwen3vl", folder)
    return folder


def change(case: Path, name: str, value: np.ndarray | None) -> None:
    tensors = load_file(case / "case.safetensors")
    tensors = {key: tensor for key, tensor in tensors.items() if key != name}
    save_file(tensors if value is None else tensors | {name: value}, case / "case.safetensors")


@pytest.mark.parametrize("name", ["qwen3vl", "paligemma", "smolvlm"])
def test_every_recorded_case_has_parity(name: str, tmp_path: Path) -> None:
    figures = tmp_path / "parity.json"
    assert main(["parity", str(CASES / name), "--json", str(figures)]) == 0
    report = json.loads(figures.read_text())
    differences, allowed = report["largest_difference"], report["tolerance"]
    assert report["passed"] and max(differences.values()) > 0
    assert all(differences[name] <= allowed[name] for name in differences)


def test_what_the_policy_uses_is_compared_more_tightly_than_what_nobody_reads(case: Path, capsys) -> None:
    hidden = load_file(case / "case.safetensors")["out.last_hidden_state"]
    change(case, "out.last_hidden_state", hidden + np.float32(1e-4))
    assert main(["parity", str(case)]) == 0
    change(case, "out.last_hidden_state", hidden + np.float32(4e-4))
    assert main(["parity", str(case)]) == 1
    assert "(last_hidden_state), allowed 2e-04" in capsys.readouterr().out


def test_an_output_beyond_the_tolerance_is_named_and_ends_in_exit_code_1(case: Path, capsys) -> None:
    velocity = load_file(case / "case.safetensors")["out.velocity"]
    velocity[0, 0, 0] += 1e-4
    change(case, "out.velocity", velocity)
    assert main(["parity", str(case)]) == 1
    assert "NO parity: largest 1.00e-04 (velocity)" in capsys.readouterr().out


def test_an_output_of_another_shape_has_no_parity(case: Path, tmp_path: Path) -> None:
    change(case, "out.actions_5_steps", np.zeros((2, 7, 5), np.float32))
    figures = tmp_path / "parity.json"
    assert main(["parity", str(case), "--json", str(figures)]) == 1
    assert json.loads(figures.read_text())["largest_difference"]["actions_5_steps"] is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("in.noise", None, "tensor in.noise is missing"),
        ("in.time", np.zeros((2, 1), np.float32), r"tensor in.time has shape \[2, 1\]; expected 1 dimensions"),
        ("in.image_grid_thw", None, "tensor in.image_grid_thw is missing"),
        ("out.dreams", np.zeros(1, np.float32), "tensor out.dreams is not an output that a policy computes"),
    ],
)
def test_a_case_that_cannot_be_used_is_refused_in_one_line(case: Path, capsys, name, value, expected) -> None:
    change(case, name, value)
    assert main(["parity", str(case)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(ValueError, match=expected):
        raise ValueError(error)


def test_a_folder_or_a_file_that_is_not_there_is_refused(case: Path, capsys) -> None:
    assert main(["parity", str(case / "nowhere")]) == 2
    (case / "case.safetensors").write_bytes(b"\x08\x00")
    assert main(["parity", str(case)]) == 2
    assert capsys.readouterr().err.count("\n") == 2
