"""What is measured: a policy by its name, a request for it, and the preprocessing that makes such a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from vla_ros.policies.directory import load_policy
from vla_ros.policies.fill import build_policy
from vla_ros.policies.modules.vlm_bridge.processor import PROMPT_SEPARATOR, ProcessorConfig
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.policy import PiPolicy
from vla_ros.policies.pi.published import PUBLISHED
from vla_ros.policies.pi.synthetic import image_size_of, synthetic_request
from vla_ros.policies.processor import make_processor, open_policy
from vla_ros.share import policy_dir, share_path
from vla_ros.strict import parse_config
from vla_ros.transforms.sample import PolicyRequest

NUM_CAMERAS = 2
CAMERA_SIZE = 480, 640
# Makes 180 tokens with two images of a Qwen policy.
NUM_TEXT_TOKENS = 78
BUCKET_STEP, NUM_BUCKETS = 64, 48
MODULATION_GAIN = 0.02
_UNKNOWN = "<unk>"
# What a backbone's processor needs of its tokenizer: special tokens, and the key of their id where that is given.
_SPECIAL_TOKENS: dict[str, dict[str, str | None]] = {
    "Qwen3VLForConditionalGeneration": {
        "<|image_pad|>": "image_token_id",
        "<|vision_start|>": "vision_start_token_id",
        "<|vision_end|>": "vision_end_token_id",
        "<|endoftext|>": None,
        "<|im_end|>": None,
    },
    "PaliGemmaForConditionalGeneration": {"<pad>": None, "<bos>": None, "<eos>": None},
    "SmolVLMForConditionalGeneration": {
        "<image>": "image_token_id",
        "<|im_end|>": None,
        "<|im_start|>": None,
        "<end_of_utterance>": None,
        "<fake_token_around_image>": None,
        "<global-img>": None,
    },
}


@dataclass(frozen=True)
class Subject:
    """``policy`` is on its device, not yet packed; ``preprocess`` turns camera images and a task into a policy input,
    and is None where the processor of a backbone cannot be made up."""

    name: str
    policy: PiPolicy
    request: PolicyRequest
    preprocess: Callable[[], object] | None

    @property
    def config(self) -> PiConfig:
        return self.policy.config


def open_subject(name: str, device: torch.device, dtype: torch.dtype) -> Subject:
    """A policy directory (or a packaged one by name) as it is, else a configuration by name with random weights.

    Raises ValueError where there is neither.
    """
    if _is_directory(name):
        return _from_directory(policy_dir(name), device, dtype)
    return random_subject(sizes_of(name), device, dtype)


@dataclass(frozen=True)
class Sizes:
    """A policy without its weights; ``image_size`` is (height, width) in pixels of what the model sees."""

    name: str
    config: PiConfig
    image_size: tuple[int, int]


def sizes_of(name: str) -> Sizes:
    """Those of what ``open_subject`` would open."""
    if _is_directory(name):
        folder = policy_dir(name)
        files = open_policy(folder).files
        return Sizes(folder.name, files.policy, (files.processor.image_height, files.processor.image_width))
    config = find_config(name)
    return Sizes(name, config, image_size_of(config))


def random_subject(sizes: Sizes, device: torch.device, dtype: torch.dtype, num_cameras: int = NUM_CAMERAS) -> Subject:
    """A policy with random weights, and a request with random pixels and text of about 80 tokens."""
    torch.manual_seed(0)
    with device:
        policy = build_policy(sizes.config)
    for part in policy.action_expert.modules():
        if isinstance(part, nn.Linear) and not part.weight.any():  # a fresh modulation does nothing yet
            nn.init.normal_(part.weight, std=MODULATION_GAIN)
    policy = policy.to(dtype).eval().requires_grad_(False)
    request = synthetic_request(sizes.config, num_cameras, sizes.image_size, NUM_TEXT_TOKENS)
    return Subject(sizes.name, policy, request, random_preprocessing(sizes, num_cameras))


def find_config(name: str) -> PiConfig:
    """A published policy's configuration, or that of ``config/policy/NAME.yaml``; raises ValueError for another
    name."""
    if name in PUBLISHED:
        return PUBLISHED[name]
    known = {path.stem: path for path in sorted(share_path("config/policy").glob("*.yaml"))}
    if name not in known:
        raise ValueError(
            f"policy '{name}' is no policy directory and no configuration; expected one of "
            f"{', '.join((*PUBLISHED, *known))} or a directory that vla_ros train or import made"
        )
    return parse_config(PiConfig, yaml.safe_load(known[name].read_text()), known[name].name)


def _is_directory(name: str) -> bool:
    """Whether a name is meant as a policy directory: a path, or a packaged policy."""
    if len(Path(name).parts) > 1:
        return True
    try:
        return name not in PUBLISHED and policy_dir(name).is_dir()
    except ValueError:
        return False


def _from_directory(folder: Path, device: torch.device, dtype: torch.dtype) -> Subject:
    opened = open_policy(folder)
    policy = load_policy(folder, device, dtype).policy
    golden = opened.golden
    return Subject(folder.name, policy, golden.request, lambda: opened.processor.process(golden.observation))


def random_preprocessing(sizes: Sizes, num_cameras: int) -> Callable[[], object] | None:
    """What turns random camera images and a task into a policy input; None where no processor can be made up."""
    config = sizes.config
    if config.vlm_type not in _SPECIAL_TOKENS:
        return None
    processor_config = ProcessorConfig(
        type=BACKBONES[config.vlm_type].processor,
        camera_height=CAMERA_SIZE[0],
        camera_width=CAMERA_SIZE[1],
        image_height=sizes.image_size[0],
        image_width=sizes.image_size[1],
        buckets=tuple(BUCKET_STEP * (i + 1) for i in range(NUM_BUCKETS)),
    )
    processor = make_processor(processor_config, config, _make_tokenizer(config), num_cameras)
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (*CAMERA_SIZE, 3), np.uint8) for _ in range(num_cameras)]
    task = " ".join(["word"] * NUM_TEXT_TOKENS)
    return lambda: processor.process(frames, task)


def _make_tokenizer(config: PiConfig) -> Tokenizer:
    """One that knows the special tokens by the ids of the backbone's configuration, and no other word."""
    keys = _SPECIAL_TOKENS[config.vlm_type]
    given = {token: int(config.vlm_config[key]) for token, key in keys.items() if key is not None}
    others = [*(token for token in keys if token not in given), PROMPT_SEPARATOR, _UNKNOWN]
    free = (i for i in range(len(keys) + len(others)) if i not in given.values())
    tokenizer = Tokenizer(models.WordLevel(given | dict(zip(others, free, strict=False)), unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer
