"""Compiled steps give what they give as written, or run as written and say why."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from policy_helpers import EXPERT, observation, pi_config, policy_processor

torch = pytest.importorskip("torch")

from vla_ros.execution.compiling import CACHE_VARIABLE, Compilation, keep_compiled  # noqa: E402
from vla_ros.execution.runner import Inference, PolicyRunner  # noqa: E402
from vla_ros.policies.families import family_of, find_config  # noqa: E402
from vla_ros.policies.fill import build_policy  # noqa: E402
from vla_ros.policies.pi.policy import PiPolicy  # noqa: E402
from vla_ros.policies.pi.request import PiRequest  # noqa: E402

CPU = torch.device("cpu")
TRACED = "aot_eager"  # the whole graph is recorded and taken apart, and no compiler of C++ is needed


def make_policy(**changes: object) -> PiPolicy:
    torch.manual_seed(0)
    return PiPolicy(pi_config(num_steps=3, **changes)).eval()


def make_request(policy: PiPolicy, is_guided: bool = False) -> PiRequest:
    config = policy.config
    request = policy_processor(config).process(observation())
    if not is_guided:
        return request
    previous = np.full((config.action_horizon, config.action_dim), 0.3, np.float32)
    weights = np.linspace(1.0, 0.0, config.action_horizon, dtype=np.float32)
    return replace(request, previous_actions=previous, guidance_weights=weights)


def run(policy: PiPolicy, request: PiRequest, backend: object = None) -> tuple[Inference, str]:
    compilation = None if backend is None else Compilation(policy.repeated, torch.float32, backend)
    runner = PolicyRunner(policy, CPU, compilation)
    return runner.run(request), runner.not_compiled


@pytest.mark.parametrize("max_frozen_actions", [0, 2])
@pytest.mark.parametrize("is_guided", [False, True])
@pytest.mark.parametrize("changes", [{}, {"expert_only_use_register": False}])
def test_compiled_steps_give_what_they_give_as_written(changes, is_guided: bool, max_frozen_actions: int) -> None:
    changes = {**changes, "max_frozen_actions": max_frozen_actions}
    request = make_request(make_policy(**changes), is_guided)
    expected, _ = run(make_policy(**changes), request)
    got, not_compiled = run(make_policy(**changes), request, TRACED)  # a break of the graph would be trouble
    assert not not_compiled
    np.testing.assert_allclose(got.actions, expected.actions, atol=1e-5)


@pytest.mark.parametrize("qk_norm", ["layernorm", "rmsnorm", "none"])
def test_every_norm_of_queries_and_keys_is_compiled(qk_norm: str) -> None:
    policy = make_policy(action_expert_cfg=replace(EXPERT, qk_norm=qk_norm))
    make = policy.make_time_grid
    policy.make_time_grid = lambda num_steps: policy.action_expert.turn_at_once(make(num_steps))  # as a GPU
    assert run(policy, make_request(policy), TRACED)[1] == ""


@pytest.mark.parametrize("name", ["pi0", "pi05", "smolvla"])
def test_the_other_families_steps_are_compiled(name: str) -> None:
    config = find_config(name)
    trials = family_of(config).make_trials()
    tiny, request = trials.shrink(config, trials.make_request(config))
    runners = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        policy = build_policy(tiny).eval()
        trials.randomize(policy)
        runners.append(
            PolicyRunner(policy, CPU, Compilation(policy.repeated, torch.float32, TRACED) if is_compiled else None)
        )
    expected, got = (runner.run(request).actions for runner in runners)
    assert runners[1].not_compiled == ""
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_compiled_modules_are_as_they_were_once_their_runner_is_closed() -> None:
    policy = make_policy()
    runner = PolicyRunner(policy, CPU, Compilation(policy.repeated, torch.float32, TRACED))
    runner.run(make_request(policy))
    assert "forward" in vars(policy.action_expert)
    runner.close()
    assert "forward" not in vars(policy.action_expert)


def test_what_cannot_be_compiled_runs_as_written_and_says_why() -> None:
    def fails(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> None:
        raise OSError("no compiler\nfound")

    request = make_request(make_policy())
    expected, _ = run(make_policy(), request)
    got, not_compiled = run(make_policy(), request, fails)
    assert not_compiled.startswith("steps run as written, not compiled: ") and "\n" not in not_compiled
    assert "no compiler" in not_compiled
    np.testing.assert_array_equal(got.actions, expected.actions)


def test_what_is_compiled_to_other_numbers_is_not_used() -> None:
    def adds_one(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        return lambda *args: tuple(x + 1 for x in graph(*args))

    request = make_request(make_policy())
    expected, _ = run(make_policy(), request)
    got, not_compiled = run(make_policy(), request, adds_one)
    assert "off, expected at most 0.001" in not_compiled
    np.testing.assert_array_equal(got.actions, expected.actions)


def test_kernels_are_kept_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "/somewhere")
    keep_compiled()
    assert os.environ[CACHE_VARIABLE] == "/somewhere"
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_compiled()
    assert os.environ[CACHE_VARIABLE] == str(tmp_path / "vla_ros/compiled")
    monkeypatch.delenv(CACHE_VARIABLE)
