"""A policy beside an installed LeRobot: one set of weights gives one chunk, and what can't be compared is refused."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from vla_ros.bench.inference.rival import Case, measure_against, open_case, rival_json, rival_text  # noqa: E402
from vla_ros.bench.inference.subject import random_policy  # noqa: E402
from vla_ros.cli import main  # noqa: E402
from vla_ros.policies.config import PolicyConfig  # noqa: E402
from vla_ros.policies.directory import infer  # noqa: E402
from vla_ros.policies.families import family_of, find_config  # noqa: E402
from vla_ros.policies.lerobot.rival import share_weights  # noqa: E402
from vla_ros.policies.pi0.weights import our_name  # noqa: E402

CPU = torch.device("cpu")
FAMILIES = ("pi0", "pi05", "smolvla", "act")
needs_lerobot = pytest.mark.skipif(find_spec("lerobot") is None, reason="needs LeRobot: the extra lerobot")


def small_config(name: str) -> PolicyConfig:
    """Small, as LeRobot can build it."""
    config: Any = find_config(name)
    trials = family_of(config).make_trials()
    small = trials.shrink(config, trials.make_request(config))[0]
    if name == "act":
        return replace(small, backbone_width=64)
    return replace(small, expert_hidden_size=48, expert_intermediate_size=256) if name == "smolvla" else small


def small_case(name: str) -> Case:
    config = small_config(name)
    trials, policy = family_of(config).make_trials(), random_policy(config, CPU, torch.float32)
    processor = trials.make_processor(config)
    return Case(name, policy, processor, trials.make_observation(processor))


class Echo:
    """Another program that answers as the policy does, and remembers what it was given."""

    def __init__(self, policy: Any, camera_sizes: list[tuple[int, int]]) -> None:
        self.policy, self.camera_sizes, self.num_runs = policy, camera_sizes, 0

    def run(self, images: list[np.ndarray], request: Any) -> np.ndarray:
        self.num_runs += 1
        assert [image.shape[:2] for image in images] == self.camera_sizes
        return infer(self.policy, request, CPU)


@needs_lerobot
@pytest.mark.parametrize("name", FAMILIES)
def test_lerobot_gives_the_same_actions_with_the_same_weights(name: str) -> None:
    from vla_ros.policies.lerobot.rival import LeRobotRival

    report = measure_against(small_case(name), "LeRobot", LeRobotRival, CPU, num_rounds=1)
    assert report.largest_difference < 1e-5
    assert report.ratio > 0 and report.num_cameras == 2


@pytest.mark.parametrize("name", FAMILIES)
def test_a_rival_gets_the_same_pictures_and_is_reported_pair_by_pair(name: str) -> None:
    rivals: list[Echo] = []

    def make(*given: Any) -> Echo:
        rivals.append(Echo(*given))
        return rivals[0]

    report = measure_against(small_case(name), "Echo 1.0", make, CPU, num_rounds=2)
    assert rivals[0].camera_sizes == [(480, 640)] * 2 or name == "act"
    assert rivals[0].num_runs == 1 + 3, "once to compare, then a round to warm up and two that count"
    assert report.largest_difference < 1e-5
    low, high = report.ratio_range
    assert low <= report.ratio <= high
    assert "times as fast as Echo 1.0" in rival_text(report) and rival_json(report)["num_rounds"] == 2


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_says_how_lerobot_builds_it(name: str) -> None:
    config = find_config(name)
    form = family_of(config).make_trials().as_lerobot(config)
    assert form.type == name
    assert form.settings["chunk_size"] == config.action_horizon


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("act", {"backbone_width": 8}, "policy.backbone_width is 8; expected 64"),
        ("pi0", {"time_rule": "sum"}, "policy.time_rule is 'sum'; expected product"),
        ("smolvla", {"image_tokens": (1, 2), "num_empty_cameras": 1}, "policy.num_empty_cameras is 1; expected 0"),
        ("mid", {}, "LeRobot has no PiPolicy"),
    ],
)
def test_what_lerobot_does_not_have_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    config: Any = replace(find_config(name), **changes)
    with pytest.raises(ValueError, match=message):
        family_of(config).make_trials().as_lerobot(config)


def test_a_configuration_without_a_processor_needs_a_directory() -> None:
    with pytest.raises(ValueError, match="'mid' is of PiPolicy, .* give a policy directory"):
        open_case("mid", CPU)


def test_weights_are_shared_and_none_is_forgotten() -> None:
    ours = random_policy(small_config("pi05"), CPU, torch.float32)
    theirs = torch.nn.Module()
    theirs.action_in_proj = torch.nn.Linear(*reversed(ours.action_in_proj.weight.shape))
    with pytest.raises(ValueError, match=r"LeRobot's policy has no place for \d+ weights, action_out_proj.bias among"):
        share_weights(theirs, ours, lambda name: our_name(name, "pi05"))
    assert theirs.action_in_proj.weight.data_ptr() == ours.action_in_proj.weight.data_ptr()
    theirs.action_in_proj = torch.nn.Linear(3, 5)
    with pytest.raises(ValueError, match=r"LeRobot's action_in_proj.weight is \[5, 3\]; expected \["):
        share_weights(theirs, ours, lambda name: our_name(name, "pi05"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "LeRobot is not installed here; install the extra lerobot"),
        (["--scale"], "--against does not go with --scale; leave one of them out"),
        (["--control"], "--against does not go with --control; leave one of them out"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused_in_one_line(
    argv: list[str], message: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_ros.policies.lerobot.installed.find_spec", lambda name: None)
    assert main(["bench", "--policy", "act", "--against", "lerobot", *argv]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@needs_lerobot
@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_recipe_is_that_of_lerobots_configuration_class(name: str) -> None:
    from lerobot.policies.factory import make_policy_config

    theirs, ours = make_policy_config(name, device="cpu"), find_config("pi05-half" if name == "pi05" else name).recipe
    optimizer, scheduler = theirs.get_optimizer_preset(), theirs.get_scheduler_preset()
    assert ours is not None and ours.learning_rate == optimizer.lr
    assert (ours.beta1, ours.beta2) == tuple(optimizer.betas) and ours.weight_decay == optimizer.weight_decay
    assert ours.max_grad_norm == optimizer.grad_clip_norm
    final = 1.0 if scheduler is None else scheduler.decay_lr / scheduler.peak_lr
    assert ours.final_scale == pytest.approx(final)
