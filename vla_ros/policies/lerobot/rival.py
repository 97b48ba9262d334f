"""The same policy run by LeRobot, with the same weights: what a bench compares with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vla_ros.policies.base import BasePolicy
from vla_ros.policies.families import family_of
from vla_ros.policies.lerobot.installed import require_lerobot
from vla_ros.policies.trials import LeRobotForm
from vla_ros.transforms.sample import PolicyRequest

IMAGE, STATE, ACTION = "observation.images.camera_{}", "observation.state", "action"
TOKENS, TOKEN_MASK = "observation.language.tokens", "observation.language.attention_mask"


class LeRobotRival:
    """LeRobot's policy over the weights of ``policy``, which may be packed afterwards but not moved.

    Raises ValueError where LeRobot isn't installed, has no such policy, or doesn't read each of the weights.
    """

    def __init__(self, policy: BasePolicy, camera_sizes: Sequence[tuple[int, int]]) -> None:
        require_lerobot()
        from lerobot.policies import get_policy_class

        config = policy.config
        form: LeRobotForm = family_of(config).make_trials().as_lerobot(config)
        self._form, self._device = form, next(policy.parameters()).device
        self._pictures = [IMAGE.format(i) for i in range(len(camera_sizes))]
        pictures = {key: ("VISUAL", (3, *size)) for key, size in zip(self._pictures, camera_sizes, strict=True)}
        inputs = pictures | ({STATE: ("STATE", (config.state_dim,))} if config.state_history else {})
        self._state_dim = config.state_dim if config.state_history else 0
        theirs = _make_config(form, inputs, config.action_dim, str(self._device))
        # It tells what it builds.
        with _BACKBONES.get(form.type, _own_backbone)(form), _Zeros(), redirect_stdout(sys.stderr):
            self._policy = get_policy_class(form.type)(theirs)
        self._policy.to(self._device).eval()
        share_weights(self._policy, policy, form.our_name)
        self._prepare = _normalizer(theirs, self._pictures, form.pictures)

    def run(self, images: Sequence[np.ndarray], request: PolicyRequest) -> np.ndarray:
        """Normalised actions float32 [horizon, action_dim] for uint8 RGB ``images`` [height, width, 3], as many as
        there are cameras. State, noise and tokens are the request's, and made before."""
        from lerobot.policies.utils import prepare_observation_for_inference

        view = request.view()
        raw = dict(zip(self._pictures, images, strict=True))
        if self._state_dim:
            raw[STATE] = view.state[0, : self._state_dim]
        batch = self._prepare(prepare_observation_for_inference(raw, self._device))
        noise = {"noise": torch.from_numpy(view.noise)[None].to(self._device)} if view.noise.size else {}
        if self._form.num_tokens is not None:
            batch |= self._tokens(request)
        return self._policy.predict_action_chunk(batch, **noise)[0].float().cpu().numpy()

    def _tokens(self, request: PolicyRequest) -> dict[str, Tensor]:
        """Padded as LeRobot pads them."""
        given = request.to_tensors()
        tokens = given["tokens"][given["token_mask"]]
        padded = np.zeros(self._form.num_tokens or 0, np.int64)
        padded[: len(tokens)] = tokens
        mask = np.arange(len(padded)) < len(tokens)
        return {
            TOKENS: torch.from_numpy(padded)[None].to(self._device),
            TOKEN_MASK: torch.from_numpy(mask)[None].to(self._device),
        }


class _Zeros(TorchFunctionMode):
    """Weights begin as zeros: to draw those of a large policy takes a minute, and nearly all are replaced."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0].zero_() if func in (Tensor.normal_, Tensor.uniform_) else func(*args, **kwargs or {})


def share_weights(theirs: torch.nn.Module, ours: BasePolicy, our_name: Callable[[str], str | None]) -> None:
    """Every tensor of ``theirs`` that is here, too, becomes the same memory. Raises ValueError where one is left."""
    weights = {name: weight.detach() for name, weight in ours.named_parameters(remove_duplicate=False)}
    unread = set(weights)
    tensors = [*theirs.named_parameters(remove_duplicate=False), *theirs.named_buffers(remove_duplicate=False)]
    for name, tensor in tensors:
        here = our_name(name)
        if here in weights:
            if tensor.shape != weights[here].shape:
                got = f"LeRobot's {name} is {list(tensor.shape)}"
                raise ValueError(f"{got}; expected {list(weights[here].shape)}, as {here}: give published sizes")
            tensor.data = weights[here]
            unread.discard(here)
    if unread:
        got = f"LeRobot's policy has no place for {len(unread)} weights, {sorted(unread)[0]} among them"
        raise ValueError(f"{got}; expected its own release: see what the extra lerobot pins")


def _make_config(form: LeRobotForm, inputs: Mapping[str, Any], action_dim: int, device: str) -> Any:
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies import make_policy_config

    def features(given: Mapping[str, Any]) -> dict[str, Any]:
        return {key: PolicyFeature(FeatureType[kind], shape) for key, (kind, shape) in given.items()}

    given = {"input_features": features(inputs), "output_features": features({ACTION: ("ACTION", (action_dim,))})}
    return make_policy_config(form.type, **given, device=device, **form.settings)


def _normalizer(
    config: Any, keys: Sequence[str], pictures: Sequence[tuple[tuple[float, ...], tuple[float, ...]]]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """LeRobot's own processor where it normalises pictures, else nothing: a request's state is normalised already."""
    if not pictures:
        return dict
    from lerobot.policies.factory import make_pre_post_processors

    def stats(mean: Sequence[float], std: Sequence[float]) -> dict[str, np.ndarray]:
        return {name: np.array(x, np.float32)[:, None, None] for name, x in (("mean", mean), ("std", std))}

    of_pictures = {key: stats(*each) for key, each in zip(keys, pictures, strict=True)}
    return make_pre_post_processors(config, dataset_stats=of_pictures)[0]


@contextmanager
def _own_backbone(form: LeRobotForm) -> Iterator[None]:
    """Of sizes that LeRobot's own configuration says."""
    yield


@contextmanager
def _smolvlm(form: LeRobotForm) -> Iterator[None]:
    """The backbone of SmolVLA by its configuration here, which LeRobot looks up by a name."""
    from lerobot.policies.smolvla import smolvlm_with_expert as module

    names = ("fake_image_token_id", "global_image_token_id")
    ids = dict(zip(names, form.backbone["image_tokens"] or (0, 0), strict=True))
    config = module.AutoConfig.for_model("smolvlm", **form.backbone["vlm"])
    processor = SimpleNamespace(tokenizer=SimpleNamespace(**ids))
    with (
        patch.object(module, "AutoConfig", SimpleNamespace(from_pretrained=lambda _: config)),
        patch.object(module, "AutoProcessor", SimpleNamespace(from_pretrained=lambda _: processor)),
    ):
        yield


@contextmanager
def _paligemma(form: LeRobotForm) -> Iterator[None]:
    """The two towers of pi0 in the sizes that they have here; LeRobot knows them by name only."""
    from lerobot.policies import get_policy_class

    module, sizes = import_module(get_policy_class(form.type).__module__), form.backbone
    published, vision = module.PaliGemmaForConditionalGenerationWithPiGemma, sizes["vision"]

    def gemma(variant: str) -> Any:
        given = sizes[variant]
        return SimpleNamespace(**given, depth=given["num_layers"])

    def resized(config: Any) -> Any:
        config.text_config.vocab_size = sizes["vocab_size"]
        config.vision_config.hidden_size = vision["width"]
        config.vision_config.intermediate_size = vision["mlp_dim"]
        config.vision_config.num_hidden_layers = vision["num_layers"]
        config.vision_config.num_attention_heads = vision["num_heads"]
        config.vision_config.patch_size = vision["patch_size"]
        config.vision_config.projection_dim = config.projection_dim = sizes["gemma_2b"]["width"]
        return published(config=config)

    with (
        patch.object(module, "get_gemma_config", gemma),
        patch.object(module, "PaliGemmaForConditionalGenerationWithPiGemma", resized),
    ):
        yield


_BACKBONES = {"smolvla": _smolvlm, "pi0": _paligemma, "pi05": _paligemma}
