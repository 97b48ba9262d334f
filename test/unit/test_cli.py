from __future__ import annotations

import json

import pytest

from vla_ros.cli import command_line, main
from vla_ros.cli.output import write_json


def run_and_read(argv, capsys):
    """The exit code and what was written to stderr."""
    try:
        code = main(argv)
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["dance"],
        ["demo", "--episodes", "many"],
        ["demo", "--episodes", "0"],
        ["demo", "--min-success", "70"],
        ["demo", "--seed", "-1"],
        ["record", "--out", "bag", "--seconds", "0"],
        ["record"],
    ],
)
def test_arguments_that_cannot_be_used_end_in_one_line_and_exit_code_2(argv, capsys):
    pytest.importorskip("rclpy")
    code, err = run_and_read(argv, capsys)
    assert code == 2
    assert err.count("\n") == 1 and err.startswith("vla_ros")


def test_an_error_of_the_user_becomes_one_line_without_a_traceback(monkeypatch, capsys):
    def fail(args):
        raise ValueError("got a, expected b, fix c")

    monkeypatch.setattr(command_line.demo, "run", fail)
    assert run_and_read(["demo"], capsys) == (2, "vla_ros demo: got a, expected b, fix c\n")


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, capsys):
    def fail(args):
        raise ModuleNotFoundError("No module named 'mujoco'", name="mujoco")

    monkeypatch.setattr(command_line.demo, "run", fail)
    code, err = run_and_read(["demo"], capsys)
    assert code == 2
    assert "'mujoco'" in err and "vla_ros[ros,sim]" in err


def test_the_figures_are_written_where_json_says(tmp_path):
    write_json(str(tmp_path / "new" / "figures.json"), {"success_rate": 0.9})
    assert json.loads((tmp_path / "new" / "figures.json").read_text()) == {"success_rate": 0.9}


def test_a_json_file_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--json"):
        write_json(str(tmp_path), {})
