"""Learning rates by the parts of a policy, frozen parts by name, and what each step's metrics say of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_helpers import run, small_config

from vla_ros.policies.families import FAMILIES, find_config
from vla_ros.policies.fill import build_on_meta, build_policy
from vla_ros.share import share_dir
from vla_ros.training.config import LearningRates, load_train_config
from vla_ros.training.groups import begin_moments, freeze, make_optimizer, optimizer_state, parameter_groups
from vla_ros.training.metrics import METRICS, StepMetrics
from vla_ros.training.trainer import learning_rate_scale

SIZES = {
    "act": ["backbone"],
    "smolvla": ["expert"],
    "pi0": ["backbone", "expert"],
    "tiny_touch": ["backbone", "expert"],
}


@pytest.mark.parametrize(("size", "parts"), SIZES.items())
def test_each_familys_parameters_belong_to_its_parts_and_the_rest_to_base(size: str, parts: list[str]) -> None:
    policy = build_on_meta(find_config(size), size)
    groups = parameter_groups(policy, LearningRates(1e-4, **dict.fromkeys(parts, 1e-5)))
    assert [group.part for group in groups] == ["base", *parts]
    assert [group.learning_rate for group in groups] == [1e-4, *(1e-5 for _ in parts)]
    names = [name for group in groups for name in group.parameters]
    assert sorted(names) == sorted(name for name, weight in policy.named_parameters() if weight.requires_grad)
    actions = "action_head." if size == "act" else "action_in_proj."
    assert any(name.startswith(actions) for name in groups[0].parameters)


@pytest.mark.parametrize(
    ("frozen", "kept"),
    [
        (["backbone"], "expert"),
        (["expert", "base"], "backbone"),
        (["vlm_bridge", "obs_registers"], "expert"),
        (["*.visual.*", "vlm_bridge.causal_model.model.language_model"], "expert"),
    ],
)
def test_what_is_frozen_by_a_part_a_name_or_a_pattern_does_not_learn(frozen: list[str], kept: str) -> None:
    policy = build_policy(find_config("tiny_touch"))
    freeze(policy, frozen)
    groups = {group.part: group.parameters for group in parameter_groups(policy, LearningRates(1e-4))}
    assert kept in groups
    for name, weight in policy.named_parameters():
        is_named = name.startswith(("vlm_bridge.", "obs_registers"))
        if frozen == ["expert", "base"]:
            is_named = not name.startswith("vlm_bridge.")
        elif "obs_registers" not in frozen:
            is_named = name.startswith("vlm_bridge.")
        assert weight.requires_grad != is_named, name


@pytest.mark.parametrize(
    ("size", "frozen", "lr", "named"),
    [
        (
            "act",
            ["vision"],
            {},
            "frozen: 'vision' matches no parameter of ActPolicy; its parts are base, backbone, its ",
        ),
        ("act", ["vision*"], {}, "modules backbone, encoder, decoder"),
        ("act", ["back"], {}, "frozen: 'back' matches no parameter"),
        ("act", [], {"expert": 1e-4}, "lr.expert is 0.0001; ActPolicy has the parts base, backbone: remove it"),
        ("act", ["backbone"], {"backbone": 1e-4}, "lr.backbone is 0.0001 and all parameters of backbone are frozen"),
        ("smolvla", [], {"backbone": 1e-4}, "lr.backbone is 0.0001 and all parameters of backbone are frozen"),
        ("act", ["*"], {}, "frozen leaves no parameter of ActPolicy to train"),
        ("act", [], {"base": 0.0}, "lr.base is 0; expected a number above 0"),
        ("act", [], {"backbone": -1.0}, "lr.backbone is -1; expected a number above 0, or frozen: [backbone]"),
    ],
)
def test_a_name_that_matches_nothing_is_refused_with_what_there_is(
    size: str, frozen: list[str], lr: dict[str, float], named: str
) -> None:
    policy = build_on_meta(find_config(size), size)
    with pytest.raises(ValueError) as refused:
        freeze(policy, frozen)
        parameter_groups(policy, LearningRates(**{"base": 1e-4, **lr}))
    assert named in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("override", ["frozen=[nothing]", "lr.backbone=1e-4"])
def test_a_wrong_name_is_refused_before_bags_are_read(
    bags: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    monkeypatch.setattr("vla_ros.training.run.load_bags", lambda *args: pytest.fail("bags were read"))
    config = small_config(tmp_path, bags, override)
    with pytest.raises(ValueError, match="matches no parameter|are frozen"):
        run(config if "nothing" in override else replace(config, frozen=("backbone",)))


@pytest.mark.parametrize("text", ["optimizer.learning_rate=1e-3", "++optimizer.learning_rate=1e-3"])
def test_the_learning_rates_former_key_is_refused_by_name(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"optimizer.learning_rate is called lr.base now; rename it"):
        load_train_config(share_dir() / "config", "tiny_touch", [text])
    mine = "defaults: [/train/tiny_touch, _self_]\noptimizer: {learning_rate: 1e-3}\n"
    (tmp_path / "mine.yaml").write_text(f"# @package _global_\n{mine}")
    with pytest.raises(ValueError, match=r"optimizer.learning_rate"):
        load_train_config(share_dir() / "config", str(tmp_path / "mine.yaml"))


def test_learning_rates_end_where_they_are_to(bags: list[Path], tmp_path: Path) -> None:
    overrides = ("optimizer.num_steps=100", "+optimizer.final_scale=0.1")
    optimizer = small_config(tmp_path, bags, *overrides).optimizer
    assert learning_rate_scale(optimizer, 100) == pytest.approx(0.1)
    assert learning_rate_scale(optimizer, 51) == pytest.approx(0.55)
    steady = replace(optimizer, final_scale=1.0)
    assert {learning_rate_scale(steady, step) for step in range(2, 101)} == {1.0}


def test_what_the_optimizer_remembers_is_kept_by_the_parameters_names() -> None:
    config = find_config("tiny_touch")
    policy, rates = build_policy(config), LearningRates(1e-4)
    groups = parameter_groups(policy, rates)
    optimizer = make_optimizer(groups)
    learned = {name: weight for name, weight in policy.named_parameters() if name != "obs_registers"}
    for weight in learned.values():
        weight.grad = torch.full_like(weight, float(weight.numel()))
    optimizer.step()
    states = optimizer_state(optimizer, groups)
    assert states.keys() == learned.keys(), "of one without a gradient there is nothing to remember"
    again = make_optimizer(groups, weight_decay=0.3)
    begin_moments(again, groups, list(reversed(states)))
    begun = optimizer_state(again, groups)
    assert {name: list(kept) for name, kept in begun.items()} == {name: list(kept) for name, kept in states.items()}
    for name, kept in begun.items():
        for kind, value in kept.items():
            assert value.shape == states[name][kind].shape and value.dtype == states[name][kind].dtype
            value.copy_(states[name][kind])
    for group in (*optimizer.param_groups, *again.param_groups):  # the same step from here, with the same settings
        group["weight_decay"] = 0.0
    before = {name: weight.detach().clone() for name, weight in learned.items()}
    again.step()
    after = {name: weight.detach().clone() for name, weight in learned.items()}
    for name, weight in learned.items():
        weight.data.copy_(before[name])
    optimizer.step()
    assert all(torch.equal(after[name], weight) for name, weight in learned.items())
    with pytest.raises(ValueError, match="the optimizer remembers vision; the policy learns no such parameter"):
        begin_moments(again, groups, ["vision"])


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def test_every_step_of_a_run_with_a_frozen_backbone_has_its_metrics(bags: list[Path], tmp_path: Path) -> None:
    run(small_config(tmp_path / "start", bags, "optimizer.num_steps=1"))
    start = tmp_path / "start" / "policy"
    wanted = (f"start_from={start}", "frozen=[backbone]", "lr.base=1e-3", "lr.expert=1e-4")
    config = small_config(tmp_path, bags, *wanted)
    run(config)
    before, after = (load_file(folder / "model.safetensors") for folder in (start, tmp_path / "policy"))
    assert all(torch.equal(before[name], after[name]) == name.startswith("vlm_bridge.") for name in before)
    lines = lines_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        scale = learning_rate_scale(config.optimizer, line["step"] - 1)
        assert line["lr"] == pytest.approx({"base": 1e-3 * scale, "expert": 1e-4 * scale}, rel=1e-4)
        assert line["loss"] == pytest.approx(line["flow_mse"] + line["ce_loss"], rel=1e-3)
        assert line["grad_norm"] > 0 and line["samples_per_s"] > 0 and 0 < line["waiting_share"] < 1


def test_a_run_that_goes_on_forgets_the_lines_of_the_steps_that_it_repeats(tmp_path: Path) -> None:
    metrics = StepMetrics(tmp_path, 0)
    for step in (1, 2, 3):
        metrics.write(step, {"loss": 1 / 3, "lr": {"base": math.pi}}, num_samples=4, seconds=2.0)
    metrics.close()
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 4, "lo')
    again = StepMetrics(tmp_path, 2)
    again.write(3, {"loss": 2.0, "grad_norm": math.inf}, num_samples=1, seconds=1.0)
    again.close()
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3] and [line["loss"] for line in lines] == [0.333333, 0.333333, 2]
    assert lines[2]["grad_norm"] is None, "JSON has no infinity"
    assert lines[0] == {"step": 1, "loss": 0.333333, "lr": {"base": 3.14159}, "samples_per_s": 2, "waiting_share": 0}


def test_every_family_that_is_trained_here_says_which_parts_it_has() -> None:
    own = [family for family in FAMILIES.values() if family.policy.startswith("vla_ros.")]  # not those that tests bring
    trained = [family for family in own if family.config_class().runs_here]
    assert [family.policy for family in trained if not family.policy_class().parts] == []
