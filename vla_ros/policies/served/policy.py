"""A served policy as the model node runs one: a request goes to the server, its actions come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vla_ros.policies.base import OnStage, PolicyUnavailable, tell_nobody
from vla_ros.policies.modules.elsewhere_policy import ElsewherePolicy, Inputs
from vla_ros.policies.served.config import ServedConfig
from vla_ros.policies.served.connection import Connection, Server
from vla_ros.policies.served.link import ServerLink
from vla_ros.policies.served.processor import make_message
from vla_ros.strict import quoted
from vla_ros.transforms.prompted import image_names
from vla_ros.transforms.sample import PolicyRequest

NUM_TRIES = 3  # at the golden case, of a server that draws noise of its own


def read_actions(answer: Mapping[str, Any], url: str) -> np.ndarray:
    """The actions of an answer, float32 [horizon, action_dim]. Raises PolicyUnavailable, in one line, where they are
    missing, no numbers, or not finite."""
    actions = answer.get("actions")
    if not isinstance(actions, np.ndarray) or actions.dtype.kind != "f" or actions.ndim != 2 or not actions.size:
        got = f"{actions.dtype} {list(actions.shape)}" if isinstance(actions, np.ndarray) else type(actions).__name__
        keys = quoted(", ".join(map(str, answer)), 200)
        raise PolicyUnavailable(f"{url} answered with {keys}, actions {got}; expected floats [horizon, action_dim]")
    with np.errstate(over="ignore"):  # what float32 can't hold is infinite, and refused
        actions = actions.astype(np.float32)
    if not np.isfinite(actions).all():
        raise PolicyUnavailable(f"{url} answered with actions that are not finite")
    return actions


class ServedPolicy(ElsewherePolicy):
    """Connects when it is first asked."""

    config: ServedConfig

    def __init__(self, config: ServedConfig) -> None:
        super().__init__(config)
        self._made: ServerLink | None = None

    @property
    def _link(self) -> ServerLink:
        """Raises ValueError where its key can't be read."""
        if self._made is None:
            config = self.config
            server = Server.of(config.url, config.api_key_file, config.ca_file)
            self._made = ServerLink(server, config.answer_timeout_s)
        return self._made

    @property
    def trouble(self) -> str:
        return "" if self._made is None else self._made.trouble

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    def sample(
        self, inputs: Inputs, prepared: None, on_stage: OnStage = tell_nobody
    ) -> Float[Tensor, "batch horizon action"]:
        """Waits for the server; raises PolicyUnavailable where no usable answer comes."""
        message = self._message(inputs)
        on_stage("make_message")
        answer = self._link.ask(message)
        on_stage("server")
        try:
            actions = self._read(answer)
        except PolicyUnavailable as error:
            self._link.lose(str(error))
            raise
        on_stage("read_answer")
        return torch.from_numpy(actions)[None]

    def drift_sync(
        self, request: PolicyRequest, actions: np.ndarray, tolerance: float, device: torch.device | str = "cpu"
    ) -> str:
        """Asked on each new connection from now on, too, where the answer is within ``action_tolerance``."""
        message = self._message(self.unpack_request(request))
        self._link.start_sync()
        drift = self._drift(lambda: self._link.ask(message, self.config.first_timeout_s), actions)

        def check(connection: Connection) -> None:
            drift = self._drift(lambda: connection.ask(message, self.config.first_timeout_s), actions)
            if drift:
                raise PolicyUnavailable(drift)

        if not drift:
            self._link.check = check
        return drift

    def _drift(self, ask: Callable[[], Mapping[str, Any]], golden: np.ndarray) -> str:
        tolerance, worst, index = np.array(self.config.action_tolerance, np.float32), 0.0, 0
        for _ in range(NUM_TRIES):
            difference = np.abs(self._read(ask()) - golden).max(0)
            if (difference <= tolerance).all():
                return ""
            index = int((difference - tolerance).argmax())
            worst = float(difference[index])
        return (
            f"{self.config.url} serves another policy than at import: number {index} of its golden actions "
            f"is {worst:.3g} off, expected at most {tolerance[index]:.3g}; serve that one, or import this one"
        )

    def _message(self, inputs: Inputs) -> dict[str, Any]:
        images = [inputs[name] for name in image_names(inputs)]
        return make_message(self.config.keys, images, inputs["prompt"], inputs["state"])

    def _read(self, answer: Mapping[str, Any]) -> np.ndarray:
        return self.check_chunk(read_actions(answer, self.config.url), f"{self.config.url} answered with")
