"""A checkpoint as the installed LeRobot runs it: its policy between its own processors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vla_ros.policies.importing.lerobot import BEFORE_FILE, STATE
from vla_ros.policies.lerobot.checkpoint import TOKENIZER, TOKENIZER_STEP, read_steps
from vla_ros.policies.lerobot.installed import require_lerobot
from vla_ros.strict import explained, listed, quoted

RENAMING, DEVICE = "rename_observations_processor", "device_processor"
# Where transformers runs a module that a hub's repository brings.
_FOREIGN_CODE = "transformers.dynamic_module_utils.get_class_in_module"


class LeRobotRun:
    """LeRobot's policy of a ``folder`` on a ``device``, whose pictures have the ``keys``.

    Raises ValueError, in one line, where LeRobot isn't installed, doesn't know the policy's type, can't load it, or
    would run code that isn't its own.
    """

    def __init__(self, folder: Path, lerobot_type: str, keys: Sequence[str], device: torch.device) -> None:
        release = require_lerobot()
        self._keys, self.device, self._selects = tuple(keys), device, True
        with explained(f"LeRobot {release} can't load its '{quoted(lerobot_type)}': ", Exception):
            config, policy_class = _find(lerobot_type, folder, device)
            # It tells what it does, and what it doesn't find in a file stays random unless ``strict``.
            with redirect_stdout(sys.stderr), own_code_only():
                self._policy = policy_class.from_pretrained(folder, config=config, strict=True)
                self._before, self._after = _processors(config, folder, device)
        self._uses_amp = bool(config.use_amp)

    def run(self, images: Sequence[np.ndarray], state: np.ndarray, task: str, seed: int) -> np.ndarray:
        """The chunk in the space's numbers, float32 [horizon, action_dim], for ``images`` uint8 [height, width, 3] and
        ``state`` float32 [1, state_dim], or [0, state_dim] where it sees none. Waits for it.

        Depends on what is given alone, not on what was before. Raises whatever LeRobot does.
        """
        seen: dict[str, Any] = {key: self._picture(image) for key, image in zip(self._keys, images, strict=True)}
        if len(state):
            seen[STATE] = torch.from_numpy(state.copy()).to(self.device)
        seen |= {"task": task, "robot_type": ""}
        with seeded(seed, self.device), self._precision(), torch.no_grad():
            self._before.reset()
            self._after.reset()
            chunk = self._after(self._predict(self._before(seen), seed))
        if not isinstance(chunk, Tensor) or chunk.ndim != 3 or len(chunk) != 1:
            got = list(chunk.shape) if isinstance(chunk, Tensor) else type(chunk).__name__
            raise ValueError(f"it gives actions {got}; expected [1, horizon, numbers of an action]")
        return chunk[0].float().cpu().numpy()

    def _picture(self, image: np.ndarray) -> Tensor:
        return (torch.from_numpy(image).to(self.device).float() / 255).permute(2, 0, 1)[None].contiguous()

    def _predict(self, batch: Mapping[str, Any], seed: int) -> Any:
        """The whole chunk. Asked as for an episode's first action, because there LeRobot fills whatever history a
        policy sees; one that makes its chunk otherwise then is asked for that."""
        if self._selects:
            self._policy.reset()
            with _recorded(self._policy) as chunks:
                self._policy.select_action(dict(batch))
            if chunks:
                return chunks[-1]
            self._selects = False
        self._policy.reset()
        torch.manual_seed(seed)
        return self._policy.predict_action_chunk(dict(batch))

    def _precision(self) -> Any:
        return torch.autocast(self.device.type) if self._uses_amp else nullcontext()


def _find(lerobot_type: str, folder: Path, device: torch.device) -> tuple[Any, Any]:
    """The policy's configuration and class."""
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies import get_policy_class

    known = PreTrainedConfig.get_known_choices()
    if lerobot_type not in known:
        raise ValueError(f"it knows no such type; expected one of {listed(sorted(known))}")
    config = PreTrainedConfig.from_pretrained(folder)
    config.device = str(device)
    if getattr(config, "pretrained_backbone_weights", None):
        config.pretrained_backbone_weights = None  # they are in the file, and would be fetched
    return config, get_policy_class(lerobot_type)


def _processors(config: Any, folder: Path, device: torch.device) -> tuple[Any, Any]:
    from lerobot.policies import make_pre_post_processors

    steps = read_steps(folder, (BEFORE_FILE,))
    own: dict[str, dict[str, Any]] = {
        RENAMING: {"rename_map": {}},  # keys are the policy's already
        DEVICE: {"device": str(device)},
        TOKENIZER_STEP: {"tokenizer_name": str(folder / TOKENIZER)},
    }
    before = {name: changes for name, changes in own.items() if name in steps}
    return make_pre_post_processors(config, pretrained_path=str(folder), preprocessor_overrides=before)


@contextmanager
def _recorded(policy: Any) -> Iterator[list[Any]]:
    """The chunks that ``policy`` predicts meanwhile."""
    predict: Callable[..., Any] = policy.predict_action_chunk
    chunks: list[Any] = []

    def recording(*args: Any, **kwargs: Any) -> Any:
        chunks.append(predict(*args, **kwargs))
        return chunks[-1]

    policy.predict_action_chunk = recording
    try:
        yield chunks
    finally:
        del policy.predict_action_chunk  # the class's is there again


@contextmanager
def own_code_only() -> Iterator[None]:
    """Some policies ask for tokenizers and towers that come with code of their own."""

    def refuse(name: object, *args: object, **kwargs: object) -> NoReturn:
        raise ValueError(f"it asks for the code {quoted(str(name))} of a repository; nothing of it was run")

    with patch(_FOREIGN_CODE, refuse):
        yield


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Whatever torch draws follows from ``seed``, the same on each device; afterwards it goes on as before."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), nullcontext() if device.type == "cpu" else HostDraws():
        torch.manual_seed(seed)
        yield


class HostDraws(TorchFunctionMode):
    """Random numbers are drawn on the host and then moved: a GPU draws others for the same seed."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        if func in (torch.randn, torch.rand) or (func is torch.normal and "size" in kwargs):
            device = kwargs.pop("device", None)
            drawn = func(*args, device="cpu", **kwargs)
            return drawn if device is None else drawn.to(device)
        if func in (torch.randn_like, torch.rand_like):
            like, draw = args[0], torch.randn if func is torch.randn_like else torch.rand
            drawn = draw(like.shape, dtype=kwargs.get("dtype") or like.dtype, device="cpu")
            return drawn.to(kwargs.get("device") or like.device)
        if func in (Tensor.normal_, Tensor.uniform_):
            drawn = func(torch.empty(args[0].shape, dtype=args[0].dtype, device="cpu"), *args[1:], **kwargs)
            return args[0].copy_(drawn)
        return func(*args, **kwargs)
