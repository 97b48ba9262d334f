"""`--bags BAG@WEIGHT` and `--data SET@WEIGHT`: one rule for how often recordings are drawn."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from replay_helpers import commands, sensors, task, write_bag
from runtime_helpers import ROBOT

from vla_ros.cli import main
from vla_ros.cli.data_sets import read_bags, read_sets
from vla_ros.training.dataset import load_bags
from vla_ros.training.episodes import FrameRule
from vla_ros.training.samples import split_by_episode
from vla_ros.training.weights import Weighted, bag_weights, paths_of


@pytest.fixture
def week(tmp_path: Path) -> Path:
    for name in ("monday", "tuesday"):
        write_bag(tmp_path / "week" / name, sensors(1.2), commands(1.2), task())
    return tmp_path / "week"


def test_a_weight_is_that_of_every_bag_in_a_folder_and_of_its_samples(week: Path) -> None:
    monday, tuesday = week / "monday", week / "tuesday"
    weights = bag_weights((str(monday), f"{tuesday}@2.5"))
    assert weights == {monday.resolve(): 1.0, tuesday.resolve(): 2.5}
    assert set(bag_weights((f"{week}@3",)).values()) == {3.0} and paths_of((f"{week}@3",)) == (week,)
    rule = FrameRule(2, 0.1, 1.0, lambda image: image)
    frames = load_bags([monday, tuesday, monday], ROBOT, rule, bag_weights=weights).frames
    split = split_by_episode(frames, 0.3)
    assert split.share is not None
    np.testing.assert_array_equal(frames.weight, np.array([1.0, 2.5, 1.0])[frames.episode])
    of_each = [split.share[frames.episode[split.train] == episode].sum() for episode in (0, 1)]
    np.testing.assert_allclose(of_each[1] / of_each[0], 2.5)


def test_bags_and_sets_are_weighed_by_the_same_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "at@2").mkdir()
    given = ("monday", "monday@0.5", "at@2", "at@2@3")
    expected = [("monday", 1.0), ("monday", 0.5), ("at@2", 1.0), ("at@2", 3.0)]
    bags = [Weighted.parse(text) for text in read_bags(given)]
    sets = [Weighted(one.path, one.weight) for one in read_sets(given, "", None)]
    assert bags == sets == [Weighted(str(tmp_path / name), weight) for name, weight in expected]
    for read in (read_bags, lambda given: read_sets(given, "", None)):
        for text, said in (
            ("monday@often", "the weight is 'often'; expected a number, as in monday@0.5"),
            ("monday@-1", "the weight of monday is -1; expected at least 0"),
            ("monday@nan", "the weight of monday is nan; expected at least 0"),
            ("monday@inf", "the weight of monday is inf; expected at least 0"),
        ):
            with pytest.raises(ValueError, match=f"^--(bags|data) .*{re.escape(said)}$"):
                read([text])


def test_a_bag_with_two_weights_is_refused_before_anything_is_read(
    week: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bags = [str(week), f"{week / 'monday'}@2"]
    assert main(["train", "--robot", "tabletop", "--bags", *bags, "--out", str(tmp_path / "policy")]) == 2
    error = capsys.readouterr().err
    assert "monday has weight 1 and 2; expected one: name it once" in error and error.count("\n") == 1


def test_the_weights_of_the_command_line_are_in_the_configuration(
    week: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bags = [str(week / "monday"), f"{week / 'tuesday'}@2"]
    out = str(tmp_path / "policy")
    assert main(["train", "--robot", "tabletop", "--bags", *bags, "--out", out, "--cfg", "job"]) == 0
    assert f"- {week / 'tuesday'}@2\n" in capsys.readouterr().out
