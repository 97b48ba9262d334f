"""The demo's second policy, which says where the tool's tip goes, beside the first, which says where the joints do."""

from __future__ import annotations

import numpy as np
import torch

from vla_ros.policies.directory import infer, load_policy
from vla_ros.policies.files import open_policy
from vla_ros.share import policy_dir

MAX_APART_RAD = 0.15


def test_both_policies_lead_the_arm_to_the_same_block() -> None:
    seen = open_policy(policy_dir("tiny_touch")).golden.observation
    ends, ways = [], []
    for name in ("tiny_touch", "tiny_touch_pose"):
        loaded = load_policy(policy_dir(name), "cpu")
        assert not loaded.notes and not loaded.drift
        actions = infer(loaded.policy, loaded.processor.process(seen), torch.device("cpu"))
        targets = loaded.processor.decode(actions, seen).positions
        ends.append(targets[-1])
        ways.append(np.abs(targets[-1] - seen.joint_positions).max())
    assert min(ways) > 2 * MAX_APART_RAD, "the arm hardly moves in this scene"
    np.testing.assert_allclose(ends[1], ends[0], rtol=0, atol=MAX_APART_RAD)
