"""Every switch of a released Pi policy, in each of its values: imported, and compared with the plain composition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from policy_helpers import (
    CAMERAS,
    EXPERT,
    JOINTS,
    observation,
    pi_config,
    policy_processor,
    rngs,
    training_batch,
    vlm_config,
)

torch = pytest.importorskip("torch")

from released_helpers import edit_cfg, released_stats, released_weights, write_run  # noqa: E402

from vla_ros.policies.directory import load_policy  # noqa: E402
from vla_ros.policies.pi.config import PiConfig  # noqa: E402
from vla_ros.policies.pi.policy import PiPolicy  # noqa: E402
from vla_ros.policies.pi.reference import plain_actions  # noqa: E402
from vla_ros.policies.pi.released.directory import import_run  # noqa: E402
from vla_ros.policies.pi.released.settings import RobotSettings  # noqa: E402

# By key, its values; an expert's key begins with a dot. The first is the one that all others are tried with.
SWITCHES: dict[str, tuple[Any, ...]] = {
    "zero_pos_id_for_obs_register": (True, False),
    "causal_mask_obs_register": (True, False),
    "expert_only_use_register": (True, False),
    "num_obs_registers": (3, 1),
    "use_state": (True, False),
    "state_history": (1, 0),
    "suffix_add_pos_emb": (True, False),
    "detach_encoder_output": (False, True),
    "ce_loss_weight": (0.1, 0.0),
    "num_noise_per_sample": (1, 3),
    ".cross_attention_every": (2, 1, 3),
    ".only_attend_to_final_layer": (False, True),
    ".rotary_self_attn": (True, False),
    ".rope_theta": (10000.0, 100.0),
    ".qk_norm": ("layernorm", "rmsnorm", "none"),
    ".attention_bias": (True, False),
    ".num_key_value_heads": (1, 2),
}
# The same weights give other actions.
CHANGES_ACTIONS = {
    "zero_pos_id_for_obs_register",
    "causal_mask_obs_register",
    "expert_only_use_register",
    ".only_attend_to_final_layer",
    ".rotary_self_attn",
    ".rope_theta",
}
CASES = [("use_state", True)] + [(key, value) for key, values in SWITCHES.items() for value in values[1:]]
ROBOT = RobotSettings(JOINTS, CAMERAS, (24, 32), chunk_dt_s=0.1, action_mode="relative")
TOLERANCE = 1e-4


def config_of(key: str, value: Any) -> PiConfig:
    """A tiny policy whose switches are all at their first value, but for one."""
    vlm = {**vlm_config(), "architectures": ["Qwen3VLForConditionalGeneration"]}
    if key.startswith("."):
        return pi_config(vlm_config=vlm, action_expert_cfg=replace(EXPERT, **{key[1:]: value}))
    return pi_config(**{"vlm_config": vlm, key: value})


DEFAULT = config_of("use_state", True)


def actions_of(policy: PiPolicy, request: Any) -> torch.Tensor:
    with torch.inference_mode():
        return policy.sample(policy.unpack_request(request), policy.prepare())


def actions_of_default_weights(config: PiConfig) -> torch.Tensor:
    policy = PiPolicy(config).eval()
    policy.load_state_dict({name: value.float() for name, value in released_weights(DEFAULT).items()})
    return actions_of(policy, policy_processor(config).process(observation()))


@pytest.fixture(scope="module")
def default_actions() -> torch.Tensor:
    return actions_of_default_weights(DEFAULT)


def test_every_switch_of_the_configuration_is_in_the_table() -> None:
    switches = {key for key, value in vars(pi_config()).items() if isinstance(value, bool)}
    switches |= {f".{key}" for key, value in vars(EXPERT).items() if isinstance(value, (bool, str))}
    assert switches <= SWITCHES.keys()


@pytest.mark.parametrize(("key", "value"), CASES, ids=lambda part: str(part))
def test_an_imported_run_gives_what_the_plain_composition_gives(key: str, value: Any, tmp_path: Path) -> None:
    config = config_of(key, value)
    run = write_run(tmp_path, config)
    import_run(str(run), tmp_path / "out", ROBOT)
    loaded = load_policy(tmp_path / "out", "cpu")
    policy, request = loaded.policy, loaded.processor.process(observation())
    assert getattr(policy.config.action_expert_cfg if key[0] == "." else policy.config, key.lstrip(".")) == value
    got, inputs = actions_of(policy, request), policy.unpack_request(request)
    with torch.inference_mode():
        plain = plain_actions(policy, inputs.observation, config.num_steps, inputs.noise)
        policy.pack_weights()
    assert (got - plain).abs().max() < TOLERANCE and (got - inputs.noise).abs().max() > 0.1
    assert (actions_of(policy, request) - plain).abs().max() < TOLERANCE


@pytest.mark.parametrize("key", sorted(CHANGES_ACTIONS))
def test_a_switch_that_should_changes_the_actions_of_the_same_weights(key: str, default_actions: Any) -> None:
    actions = actions_of_default_weights(config_of(key, SWITCHES[key][1]))
    assert (actions - default_actions).abs().max() > 1e-3


@pytest.mark.parametrize(("key", "value"), CASES, ids=lambda part: str(part))
def test_every_switch_can_be_trained_with(key: str, value: Any) -> None:
    torch.manual_seed(0)
    policy = PiPolicy(config_of(key, value))
    with torch.no_grad():
        for parameter in policy.action_expert.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    loss = policy.compute_loss(policy.unpack_batch(training_batch(policy.config)), policy.draw(rngs(2)))
    assert loss.total.isfinite() and loss.parts["ce_loss"] > 0
    torch.testing.assert_close(
        loss.total.detach(), loss.parts["flow_mse"] + policy.config.ce_loss_weight * loss.parts["ce_loss"]
    )
    loss.total.backward()
    registers = policy.obs_registers.grad  # which only the expert reads
    assert (registers is None or not registers.any()) == (key == "detach_encoder_output")


def test_a_normalisation_of_null_is_none(tmp_path: Path) -> None:
    run = write_run(tmp_path, config_of(".qk_norm", "none"))
    edit_cfg(run, lambda document: document["policy"]["action_expert_cfg"].update(qk_norm=None))
    import_run(str(run), tmp_path / "out", ROBOT)
    assert load_policy(tmp_path / "out", "cpu").policy.config.action_expert_cfg.qk_norm == "none"


def test_without_position_embeddings_the_weights_hold_none_and_older_files_load_all_the_same(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    config = config_of("suffix_add_pos_emb", False)
    assert not [name for name in released_weights(config) if "position_embedding" in name and "vlm" not in name]
    import_run(str(write_run(tmp_path, config)), tmp_path / "out", ROBOT)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    unused = {"position_embedding_action": torch.zeros(4, 16), "position_embedding_state": torch.zeros(1, 16)}
    save_file(weights | unused, tmp_path / "out" / "model.safetensors")
    assert not load_policy(tmp_path / "out", "cpu").drift


def test_a_policy_without_state_needs_no_statistics_of_it_and_sees_none(tmp_path: Path) -> None:
    run = write_run(tmp_path, replace(config_of("state_history", 0), state_dim=8))
    stats = released_stats()
    np.savez(run / "stats.npz", **{key: value for key, value in stats.items() if "state" not in key})
    import_run(str(run), tmp_path / "out", ROBOT)
    loaded = load_policy(tmp_path / "out", "cpu")
    here, there = observation(), replace(observation(), joint_positions=np.array([0.5, 0.4, -0.3]))
    requests = [loaded.processor.process(seen) for seen in (here, there)]
    assert requests[0].state.shape == (0, 8)
    actions = [actions_of(loaded.policy, request)[0].numpy() for request in requests]
    np.testing.assert_array_equal(*actions)
    chunks = [loaded.processor.decode(actions[0], seen).positions for seen in (here, there)]
    np.testing.assert_allclose(chunks[1] - chunks[0], np.tile(there.joint_positions - here.joint_positions, (4, 1)))
