"""A configuration that goes on from another one's policy has that trained first, where it isn't there yet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from vla_ros.cli.command_line import main  # noqa: E402
from vla_ros.share import share_dir  # noqa: E402
from vla_ros.training.config import TrainConfig, load_train_config  # noqa: E402
from vla_ros.training.run import TrainingReport  # noqa: E402
from vla_ros.training.stages import stages  # noqa: E402
from vla_ros.training.trainer import Validation  # noqa: E402

CONFIG_DIR = share_dir() / "config"
FIRST, LAST = "outputs/tiny_touch_start/policy", "outputs/tiny_touch/policy"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def stages_of(name: str, *overrides: str) -> tuple[TrainConfig, ...]:
    return stages(load_train_config(CONFIG_DIR, name, overrides), CONFIG_DIR, overrides)


def test_the_demos_policy_is_made_in_two_runs_and_overrides_count_for_both() -> None:
    first, last = stages_of("tiny_touch", "seed=3", "run_dir=mine", "optimizer.num_steps=7", "~lesson.demonstrations")
    assert [first.output_dir, last.output_dir] == [FIRST, LAST] and [first.start_from, last.start_from] == ["", FIRST]
    assert (first.run_dir, last.run_dir) == ("outputs/tiny_touch_start/run", "mine")
    assert {(each.seed, each.optimizer.num_steps) for each in (first, last)} == {(3, 7)}
    assert first.lesson is not None and first.lesson.demonstrations is None
    assert (first.policy.max_frozen_actions, last.policy.max_frozen_actions) == (0, 8)


def test_what_is_there_is_not_trained_again_and_a_start_that_is_given_is_taken() -> None:
    assert len(stages_of("tiny_touch", "start_from=models/tiny_touch")) == 1
    Path(FIRST).mkdir(parents=True)
    (only,) = stages_of("tiny_touch")
    assert (only.output_dir, only.start_from) == (LAST, FIRST)


def test_a_configuration_that_begins_with_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="start_from is train:tiny_touch, which writes outputs/tiny_touch/policy as"):
        stages_of("tiny_touch", "start_from=train:tiny_touch")


def test_one_command_trains_them_in_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trained: list[str] = []

    def train(config: TrainConfig, *_: object) -> TrainingReport:
        trained.append(config.output_dir)
        judged = Validation(error_rad=(), guess_rad=(), ce_loss=0.0)
        return TrainingReport(1, 2, {}, 0, {}, 3, config.optimizer.num_steps, 4.0, 5.0, (), judged)

    monkeypatch.setattr("vla_ros.training.run.train", train)
    assert main(["train", "--json", "figures.json"]) == 0
    said = capsys.readouterr().out
    assert trained == [FIRST, LAST] and said.count("2 samples of 1 episodes") == 2
    assert said.startswith(f"{FIRST} is not there yet and is trained first")
    assert json.loads(Path("figures.json").read_text())["num_steps"] == 1200


def test_a_mistake_in_the_last_is_found_before_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla_ros.training.run.train", lambda *args: pytest.fail("it was trained"))
    Path("notes.txt").touch()
    assert main(["train", "output_dir=notes.txt"]) == 2
