"""What audit and bench make up of a family where there is no policy directory: sizes, requests, things to compare with.

Nothing of it is needed to run a policy. ``Trials`` itself makes up nothing: enough for a family that is measured from
policy directories only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vla_ros.policies.config import PolicyConfig
from vla_ros.transforms.sample import PolicyRequest

NUM_CAMERAS = 2


class Trials:
    """A family's; each part may be left as it is here."""

    def make_request(
        self, config: PolicyConfig, num_cameras: int = NUM_CAMERAS, image_size: tuple[int, int] | None = None
    ) -> PolicyRequest:
        """Random pixels and text. ``image_size`` is (height, width) in pixels of what the policy sees, by default what
        it was published for. Raises ValueError where no request can be made up."""
        raise ValueError(f"a {config.type} can be measured from a policy directory only; give one with --policy")

    def shrink(self, config: PolicyConfig, request: PolicyRequest) -> tuple[PolicyConfig, PolicyRequest]:
        """A small version of the same classes and switches, which runs at once on a CPU, and a request for it."""
        return config, request

    def resize(self, config: PolicyConfig, horizon: int, num_steps: int) -> PolicyConfig:
        """The same policy with chunks of ``horizon`` actions made in ``num_steps``. Raises ValueError where it has no
        steps."""
        raise ValueError(f"a {config.type} has no stages to sweep; leave --scale out")

    def randomize(self, policy: Any) -> None:
        """What a fresh network needs besides for its arithmetic to be that of a trained one."""

    def make_preprocessing(
        self, config: PolicyConfig, num_cameras: int = NUM_CAMERAS, image_size: tuple[int, int] | None = None
    ) -> Callable[[], object] | None:
        """What turns camera images and a task into inputs; None where no processor can be made up."""
        return None

    def num_tokens(self, request: PolicyRequest) -> int | None:
        """How many the policy reads, padding included; None where it reads no tokens."""
        return None

    def compositions(self, policy: Any) -> Mapping[str, Callable[[Any], Any]]:
        """Other ways from a policy's inputs to the same actions, by name, to compare with."""
        return {}

    def stock_prefix(self, policy: Any, inputs: Any) -> Callable[[], Any] | None:
        """The prefix as the library that the backbone is of runs it; None where there is none."""
        return None
