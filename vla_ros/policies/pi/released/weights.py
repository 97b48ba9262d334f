"""A policy built without memory of its own and filled straight from a released checkpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vla_ros.policies import fill
from vla_ros.policies.base import BasePolicy
from vla_ros.policies.importing.checkpoint import Checkpoint, check_finite, open_checkpoint
from vla_ros.policies.importing.mapped import MappedFile
from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.released.config import ReleasedConfig, read_released_config, read_vlm_config, untied
from vla_ros.policies.pi.released.source import ReleasedRun, find_run
from vla_ros.strict import explained

CAUSAL_MODEL = "vlm_bridge.causal_model."
# Where transformers names a module differently since the release, by backbone: (then, now).
RENAMED = {
    "PaliGemmaForConditionalGeneration": (("model.vision_tower.vision_model.", "model.vision_tower."),),
}


@dataclass(frozen=True)
class ReleasedPolicy:
    """A policy with the weights of a release, on the CPU, in evaluation mode and without gradients.

    ``head`` says how its output embedding was found: ``tied`` to the input embedding, or ``untied``, and then whether
    against its config.json. ``memory`` is the file's, which weights that were left as they are stored still use.
    """

    policy: BasePolicy
    config: PiConfig
    head: str
    memory: MappedFile


def load_released(
    run_dir: str | Path, vlm_config_path: str | Path, dtype: torch.dtype | None = torch.float32
) -> ReleasedPolicy:
    """The policy of a run directory (or of one checkpoint folder in it); needs neither tokenizer nor statistics.

    ``dtype`` None leaves weights as they are stored, in the file's own memory.
    Raises ValueError, in one line, for what ``fill_policy`` refuses and for a run that isn't there.
    """
    run = find_run(str(run_dir))
    return fill_policy(run, read_released_config(run.cfg), Path(vlm_config_path), dtype)


def fill_policy(
    run: ReleasedRun, released: ReleasedConfig, vlm_config_path: Path, dtype: torch.dtype | None
) -> ReleasedPolicy:
    """As ``load_released``, for a run whose ``cfg.yaml`` was read.

    Raises ValueError for a VLM that is not the release's, and for a checkpoint that is damaged, would run code, is of
    another architecture, or holds values that are not finite.
    """
    config = released.with_vlm(read_vlm_config(vlm_config_path))
    checkpoint = open_checkpoint(run.model, partial(_renamed, RENAMED.get(config.vlm_type, ())))
    own_head, says_tied = _has_own_head(checkpoint), config.vlm_config.get("tie_word_embeddings", True)
    config = untied(config) if own_head else config
    policy = fill.build_on_meta(config, "cfg.yaml and config.json")
    with explained(f"{run.model}: "):
        _fill(policy, checkpoint, dtype)
    head = "tied to the input embedding"
    if own_head:
        head = "untied: it differs from the input embedding" + (", though config.json ties it" if says_tied else "")
    return ReleasedPolicy(policy.eval(), config, head, checkpoint.memory)


def _fill(policy: BasePolicy, checkpoint: Checkpoint, dtype: torch.dtype | None) -> None:
    """Every parameter becomes the checkpoint's tensor."""
    weights, aliases = checkpoint.weights, fill.shared_names(policy)
    shapes = {name: value.shape for name, value in weights.items() if name not in aliases}
    fill.check_shapes(shapes, policy, "cfg.yaml and the VLM's config.json describe another architecture")
    check_finite(checkpoint)

    def value(name: str) -> Tensor:
        stored = weights[name]
        wanted = (stored if dtype is None else stored.to(dtype)).contiguous()
        checkpoint.memory.was_read(0 if dtype is None else stored.nbytes)
        return wanted

    fill.fill_policy(policy, value)


def _has_own_head(checkpoint: Checkpoint) -> bool:
    """Whether the output embedding is there and differs from the input embedding, whatever a configuration says."""
    weights = checkpoint.weights
    head = weights.get(f"{CAUSAL_MODEL}lm_head.weight")
    names = [name for name in weights if name.startswith(CAUSAL_MODEL) and name.endswith(".embed_tokens.weight")]
    if head is None or len(names) != 1:
        return False
    same = torch.equal(head, weights[names[0]])
    checkpoint.memory.was_read(2 * head.nbytes)
    return not same


def _renamed(changes: tuple[tuple[str, str], ...], name: str) -> str:
    for then, now in changes:
        name = re.sub(f"^{re.escape(CAUSAL_MODEL + then)}", CAUSAL_MODEL + now, name)
    return name
