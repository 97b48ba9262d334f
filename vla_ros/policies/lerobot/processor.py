"""The host side of a policy that LeRobot runs: pictures, the instruction, the state in the policy's numbers. What is
made of them is LeRobot's, in the model node. Imports neither torch nor LeRobot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla_ros.policies.lerobot.config import LeRobotConfig
from vla_ros.policies.modules.elsewhere import ElsewhereProcessor
from vla_ros.transforms.prompted import PromptedRequest, make_prompt
from vla_ros.transforms.sample import RequestView


@dataclass(frozen=True)
class LeRobotRequest(PromptedRequest):
    """``noise`` int64 [1] is the seed of whatever the policy draws."""

    noise: np.ndarray

    def view(self) -> RequestView:
        return replace(super().view(), noise=self.noise)


class LeRobotProcessor(ElsewhereProcessor):
    config: LeRobotConfig
    request_type = LeRobotRequest
    why_not_guidable = "LeRobot runs it, and is given no chunk to continue"

    @property
    def noise_dim(self) -> int:
        """Two of them make a seed."""
        return 2

    def make_request(
        self, stamp_ns: int, images: Sequence[np.ndarray], task: str, state: np.ndarray, noise: np.ndarray
    ) -> LeRobotRequest:
        seed = np.ascontiguousarray(noise[0, :2]).view(np.int64) & np.int64(np.iinfo(np.int64).max)
        return LeRobotRequest(stamp_ns, self.resize(images), make_prompt(task), state, seed)
