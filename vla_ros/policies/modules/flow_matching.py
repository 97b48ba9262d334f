"""Policies of two stages: the observation is encoded once, then flow matching turns noise into actions step by step.

Flow matching after Lipman et al., "Flow Matching for Generative Modeling"; flow time 1 is noise, 0 the action,
velocity = noise - action.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vla_ros.policies.base import BasePolicy, OnStage, tell_nobody
from vla_ros.policies.modules.guidance import Guidance, Velocity, check_product_sync, guided_velocity


@dataclass(frozen=True)
class FlowInputs:
    """One inference: what the prefix is made of, with the normalised ``state``; the noise; the chunk to continue."""

    observation: Any
    noise: Float[Tensor, "batch horizon action"]
    guidance: Guidance | None = None


class FlowMatchingPolicy(BasePolicy):
    """A policy whose ``predict_suffix`` gives the velocity, at every step over what ``encode_prefix`` made once."""

    @property
    @abstractmethod
    def num_steps(self) -> int:
        """The Euler steps of an inference."""

    @property
    @abstractmethod
    def knows_frozen_actions(self) -> bool:
        """Whether it was trained with the first actions given: then guidance holds those and takes no gradient."""

    @property
    def guides_by_gradient(self) -> bool:
        return not self.knows_frozen_actions

    @abstractmethod
    def encode_prefix(self, observation: Any) -> Any:
        """Once for each observation."""

    @abstractmethod
    def make_time_grid(self, num_steps: int) -> Any:
        """What depends on the flow times of ``num_steps`` Euler steps, which it knows, and on the weights alone."""

    @abstractmethod
    def prepare_suffix(self, prefix: Any, time_grid: Any) -> Any:
        """What stays the same from step to step, ``time_grid`` among it; without one, times are given to
        ``predict_suffix``."""

    @abstractmethod
    def predict_suffix(
        self,
        state: Float[Tensor, "batch history state"],
        suffix_input: Any,
        noisy_actions: Float[Tensor, "batch draws horizon action"],
        time: Float[Tensor, "batch draws"] | int,
        is_frozen: Bool[Tensor, "batch #draws horizon"] | None = None,
    ) -> Float[Tensor, "batch draws horizon action"]:
        """The velocity; ``time`` is a flow time for each draw, or the index of a step of the prepared grid.

        Actions that are ``is_frozen`` are clean: flow time 0. What is returned for them means nothing.
        """

    def prepare(self) -> Any:
        return self.make_time_grid(self.num_steps)

    def sample(
        self, inputs: FlowInputs, prepared: Any, on_stage: OnStage = tell_nobody
    ) -> Float[Tensor, "batch horizon action"]:
        suffix_input = self.prepare_suffix(self.encode_prefix(inputs.observation), prepared)
        on_stage("prefix")
        actions = self.denoise(inputs.observation.state, suffix_input, inputs.noise, inputs.guidance)
        on_stage("suffix")
        return actions[..., : self.config.action_dim]

    def sample_actions(
        self,
        observation: Any,
        num_steps: int,
        noise: Float[Tensor, "batch horizon action"],
        guidance: Guidance | None = None,
    ) -> Float[Tensor, "batch horizon action"]:
        """Actions from noise in ``num_steps`` Euler steps.

        ``guidance`` draws them towards an older chunk; without it they depend on nothing but observation and noise.
        Layer by layer, as in training: nothing is prepared.
        """
        suffix_input = self.prepare_suffix(self.encode_prefix(observation), None)
        actions = self._euler(observation.state, suffix_input, noise, guidance, num_steps)
        return actions[..., : self.config.action_dim]

    def denoise(
        self,
        state: Float[Tensor, "batch history state"],
        suffix_input: Any,
        noise: Float[Tensor, "batch horizon action"],
        guidance: Guidance | None = None,
    ) -> Float[Tensor, "batch horizon action"]:
        """All Euler steps of the prepared time grid, with what pads an action; frozen actions are given, the others
        follow as in training."""
        assert suffix_input.time_grid is not None, "steps need a prepared time grid"
        return self._euler(state, suffix_input, noise, guidance, suffix_input.time_grid.num_steps)

    def _euler(
        self, state: Tensor, suffix_input: Any, noise: Tensor, guidance: Guidance | None, num_steps: int
    ) -> Float[Tensor, "batch horizon action"]:
        actions, is_frozen = noise[:, None], None
        given = actions
        if guidance is not None and self.knows_frozen_actions:
            is_frozen = guidance.is_frozen[:, None]
            given = guidance.previous_actions[:, None].to(actions.dtype)
        for step in range(num_steps):
            time = step if suffix_input.time_grid is not None else _flow_time(step, num_steps, actions)
            if is_frozen is not None:
                actions = torch.where(is_frozen[..., None], given, actions)
            if guidance is None or is_frozen is not None:
                velocity = self.predict_suffix(state, suffix_input, actions, time, is_frozen)
            else:
                predict = self._velocity_at(state, suffix_input, time)
                velocity = guided_velocity(predict, actions, 1.0 - step / num_steps, guidance)
            actions = advance(actions, velocity, num_steps)
        if is_frozen is not None:
            actions = torch.where(is_frozen[..., None], given, actions)
        return actions[:, 0]

    def check_guidance_sync(self, inputs: FlowInputs, prepared: Any) -> None:
        if self.knows_frozen_actions:
            return
        suffix_input = self.prepare_suffix(self.encode_prefix(inputs.observation), prepared)
        check_product_sync(self._velocity_at(inputs.observation.state, suffix_input, 0), inputs.noise[:, None])

    def _velocity_at(self, state: Tensor, suffix_input: Any, time: Tensor | int) -> Velocity:
        return lambda actions: self.predict_suffix(state, suffix_input, actions, time)


def advance(
    actions: Float[Tensor, "batch draws horizon action"],
    velocity: Float[Tensor, "batch draws horizon action"],
    num_steps: int,
) -> Float[Tensor, "batch draws horizon action"]:
    """``actions`` after one of ``num_steps`` Euler steps from flow time 1 to 0."""
    return torch.add(actions, velocity, alpha=-1.0 / num_steps)


def _flow_time(step: int, num_steps: int, actions: Tensor) -> Float[Tensor, "batch draws"]:
    return torch.full(actions.shape[:2], 1.0 - step / num_steps, dtype=torch.float32, device=actions.device)
