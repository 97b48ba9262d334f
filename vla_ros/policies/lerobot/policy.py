"""A policy that LeRobot runs, as the model node runs one. Its tensors come and go on the host; what LeRobot computes on
is its own affair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vla_ros.policies.base import OnStage, PolicyUnavailable, tell_nobody
from vla_ros.policies.lerobot.checkpoint import check_files
from vla_ros.policies.lerobot.config import LeRobotConfig
from vla_ros.policies.lerobot.processor import LeRobotRequest
from vla_ros.policies.lerobot.running import LeRobotRun
from vla_ros.policies.modules.elsewhere_policy import ElsewherePolicy, Inputs
from vla_ros.strict import one_line
from vla_ros.transforms.prompted import image_names, read_prompt
from vla_ros.transforms.sample import PolicyRequest


class LeRobotPolicy(ElsewherePolicy):
    """``load_sync`` reads LeRobot's weights."""

    config: LeRobotConfig

    def __init__(self, config: LeRobotConfig) -> None:
        super().__init__(config)
        self._loaded: LeRobotRun | None = None

    def load_sync(self, policy_dir: Path, device: torch.device) -> None:
        """Raises ValueError where the checkpoint isn't what it was at import, or LeRobot doesn't load it."""
        config = self.config
        folder = policy_dir / config.checkpoint
        check_files(folder, config.files)
        self._loaded = LeRobotRun(folder, config.lerobot_type, [each.key for each in config.pictures], device)

    @property
    def waits_for(self) -> str:
        on = "" if self._loaded is None else f" on {self._loaded.device}"
        return self.config.waits_for + on

    def close(self) -> None:
        self._loaded = None

    def check_request(self, request: PolicyRequest) -> None:
        super().check_request(request)
        assert isinstance(request, LeRobotRequest)
        if request.noise.dtype != np.int64 or request.noise.shape != (1,):
            raise ValueError("request's tensor 'noise' is no seed; give both nodes the same policy directory")

    def sample(
        self, inputs: Inputs, prepared: None, on_stage: OnStage = tell_nobody
    ) -> Float[Tensor, "batch horizon action"]:
        """Waits for LeRobot; raises PolicyUnavailable where it gives no chunk that can be used."""
        actions = self.check_chunk(self.answer(inputs), f"{self._what} gives")
        on_stage("lerobot")
        return torch.from_numpy(actions)[None]

    def answer(self, inputs: Inputs) -> np.ndarray:
        """Finite actions float32 [horizon, action_dim], of whatever length LeRobot makes them. Raises
        PolicyUnavailable where they aren't finite, or LeRobot fails."""
        if self._loaded is None:
            raise PolicyUnavailable(f"{self._what} isn't loaded any more")
        images = [inputs[name] for name in image_names(inputs)]
        task, seed = read_prompt(inputs["prompt"]), int(inputs["noise"][0])
        try:
            actions = self._loaded.run(images, inputs["state"], task, seed)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # LeRobot's policies raise what they like
            raise PolicyUnavailable(f"{self._what} fails: {type(error).__name__}: {one_line(error)}") from error
        if not np.isfinite(actions).all():
            raise PolicyUnavailable(f"{self._what} gives actions that are not finite")
        return actions

    def drift_sync(
        self, request: PolicyRequest, actions: np.ndarray, tolerance: float, device: torch.device | str = "cpu"
    ) -> str:
        """``tolerance`` is of each number's size in the golden actions, but at least of 1: they aren't normalised."""
        again = self.sample(self.unpack_request(request), None)[0].numpy()
        allowed = tolerance * np.maximum(1.0, np.abs(actions).max(0))
        difference = np.abs(again - actions).max(0)
        if (difference <= allowed).all():
            return ""
        index = int((difference - allowed).argmax())
        return (
            f"output drifted: number {index} of the golden actions differs by up to {difference[index]:.3g}, expected "
            f"at most {allowed[index]:.3g}; LeRobot or a library changed since import: restore it or import again"
        )

    @property
    def _what(self) -> str:
        return f"LeRobot's '{self.config.lerobot_type}'"
