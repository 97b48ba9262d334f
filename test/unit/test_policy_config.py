"""Configuration: what doesn't belong is refused by name."""

from __future__ import annotations

import pytest
from policy_helpers import pi_config, policy_processor, processor_config

from vla_ros.policies.config import DataConfig
from vla_ros.policies.families import read_policy_config
from vla_ros.policies.pi.config import PiConfig
from vla_ros.strict import config_to_dict, parse_config


def test_a_config_survives_writing_and_reading() -> None:
    assert parse_config(PiConfig, config_to_dict(pi_config()), "policy") == pi_config()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_regsters": 1}, "policy: unknown key 'num_regsters'"),
        ({"use_state": "yes"}, "policy.use_state is 'yes'; expected true or false"),
        ({"action_horizon": 4.0}, "policy.action_horizon is 4.0; expected a whole number"),
        ({"action_horizon": True}, "policy.action_horizon is True; expected a whole number"),
        ({"action_horizon": 0}, "policy.action_horizon is 0; expected at least 1"),
        ({"action_expert_cfg": []}, "policy.action_expert_cfg is list; expected a mapping"),
        ({"type": "os.system"}, "policy.type is 'os.system'; expected one of PiPolicy"),
        ({"vlm_type": "torch.nn.Linear"}, "policy.vlm_type is 'torch.nn.Linear'; expected one of"),
    ],
)
def test_a_bad_policy_key_is_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("[", r"\[")):
        read_policy_config(config_to_dict(pi_config()) | change, "policy")


def test_a_missing_key_is_named() -> None:
    document = config_to_dict(pi_config())
    del document["action_dim"]
    with pytest.raises(ValueError, match="policy: key 'action_dim' is missing"):
        parse_config(PiConfig, document, "policy")


def test_a_nested_key_is_refused_with_its_place() -> None:
    document = config_to_dict(pi_config())
    document["action_expert_cfg"]["depth"] = 3
    with pytest.raises(ValueError, match="policy.action_expert_cfg: unknown key 'depth'"):
        parse_config(PiConfig, document, "policy")


def test_an_action_mode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="data.action_mode is 'delta'; expected one of relative, absolute"):
        DataConfig(("a",), ("front",), 4, 0.1, action_mode="delta")


def test_buckets_must_grow() -> None:
    with pytest.raises(ValueError, match="expected increasing lengths"):
        processor_config(buckets=(72, 48))


def test_sizes_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="policy.action_dim is 3, data.joint_names makes 2 numbers; make them equal"):
        policy_processor(pi_config(), joint_names=("base", "wrist"))
    with pytest.raises(ValueError, match="policy.action_horizon is 4, data.action_horizon 5"):
        policy_processor(pi_config(), action_horizon=5)
