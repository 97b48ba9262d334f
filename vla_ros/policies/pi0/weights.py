"""The weights of pi0 as LeRobot and openpi store them: their names here, and the sizes that their shapes say.

The last text layer gives keys and values to the expert and nothing else: the rest of it is left where it is, and so are
the heads that predict words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from vla_ros.policies import fill
from vla_ros.policies.importing.lerobot import is_statistic
from vla_ros.policies.importing.mapped import MappedFile
from vla_ros.policies.importing.stored import check_stored, open_stored
from vla_ros.policies.modules.layers.sizes import GemmaSizes, SiglipSizes
from vla_ros.policies.pi0.config import Pi0Config
from vla_ros.policies.pi0.policy import Pi0Policy
from vla_ros.strict import check_safetensors, explained, quoted

NUM_VISION_HEADS = 16  # of SigLIP so400m, which no shape says
# In the order in which they are tried: LeRobot's and openpi's names without ``model.``, then LeRobot 0.3's.
PREFIXES = (
    ("paligemma.model.vision_tower.vision_model.", "vision."),
    ("paligemma.model.vision_tower.", "vision."),
    ("paligemma.model.multi_modal_projector.linear.", "projector."),
    ("paligemma.model.language_model.embed_tokens.", "embed_tokens."),
    ("paligemma.model.language_model.layers.", "text_layers."),
    ("paligemma.model.language_model.norm.", None),
    ("paligemma.lm_head.", "head."),
    ("paligemma.vision_tower.vision_model.", "vision."),
    ("paligemma.multi_modal_projector.linear.", "projector."),
    ("paligemma.language_model.model.embed_tokens.", "embed_tokens."),
    ("paligemma.language_model.model.layers.", "text_layers."),
    ("paligemma.language_model.model.norm.", None),
    ("paligemma.language_model.lm_head.", "head."),
    ("gemma_expert.model.layers.", "expert.layers."),
    ("gemma_expert.model.norm.", "expert.norm."),
    ("gemma_expert.model.embed_tokens.", None),
    ("gemma_expert.lm_head.", None),
)
TOWERS, HEAD, EMBEDDING = "paligemma_with_expert.", "head.weight", "embed_tokens.weight"
# Which mark the variant; files of one that hold the other's names mean their own by them.
MARKS = {"pi0": "action_time_mlp_in.weight", "pi05": "time_mlp_in.weight"}
_LAST_READS = re.compile(r"text_layers\.\d+\.(input_layernorm\.|self_attn\.[kv]_proj\.)")


@dataclass(frozen=True)
class StoredSizes:
    """What the shapes of a file say."""

    vocab_size: int
    text: GemmaSizes
    expert: GemmaSizes
    vision: SiglipSizes
    padded_state_dim: int
    padded_action_dim: int


@dataclass(frozen=True)
class StoredWeights:
    """A file's shapes by the names that weights have here."""

    path: Path
    variant: str
    names: Mapping[str, str]  # from stored names
    shapes: Mapping[str, Sequence[int]]

    def sizes(self) -> StoredSizes:
        """Raises ValueError for a weight that sizes are taken from and isn't there."""
        embedding, pixels = self._shape(EMBEDDING), self._shape("vision.embeddings.patch_embedding.weight", 4)
        (num_patches, _), state = self._shape("vision.embeddings.position_embedding.weight"), "state_proj.weight"
        with explained(f"{self.path}: "):
            vision = SiglipSizes(
                width=pixels[0],
                mlp_dim=self._shape("vision.encoder.layers.0.mlp.fc1.weight")[0],
                num_layers=self._count("vision.encoder.layers"),
                num_heads=NUM_VISION_HEADS,
                patch_size=pixels[-1],
                image_size=math.isqrt(num_patches) * pixels[-1],
            )
            text, expert = self._gemma("text_layers"), self._gemma("expert.layers")
        action_dim = self._shape("action_in_proj.weight")[1]
        state_dim = self._shape(state)[1] if state in self.shapes else action_dim
        return StoredSizes(embedding[0], text, expert, vision, state_dim, action_dim)

    def _gemma(self, stack: str) -> GemmaSizes:
        queries, keys = (self._shape(f"{stack}.0.self_attn.{name}_proj.weight") for name in "qk")
        return GemmaSizes(
            width=queries[1],
            mlp_dim=self._shape(f"{stack}.0.mlp.gate_proj.weight")[0],
            num_layers=self._count(stack),
            num_heads=queries[0] // keys[0],
            num_kv_heads=1,
            head_dim=keys[0],
        )

    def _shape(self, name: str, ndim: int = 2) -> Sequence[int]:
        shape = self.shapes.get(name)
        if shape is None or len(shape) != ndim or 0 in shape:
            got = "is missing" if shape is None else f"has shape {list(shape)}"
            raise ValueError(f"{self.path}: the weight {name} of a pi0 policy {got}; give a whole checkpoint")
        return shape

    def _count(self, stack: str) -> int:
        found = re.compile(rf"{re.escape(stack)}\.(\d+)\.")
        indices = {int(match[1]) for name in self.shapes if (match := found.match(name))}
        return max(indices, default=-1) + 1


def read_stored(path: Path, variant: str | None = None) -> StoredWeights:
    """The shapes in ``path``; ``variant`` None: as the names say. Raises ValueError for a damaged file, and for one of
    no pi0 policy."""
    with explained(f"{path}: damaged (", SafetensorError, OSError, ValueError, after="); copy or download it again"):
        check_safetensors(path)
        with safe_open(path, framework="np") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}
    plain = {name: re.sub(r"(^|\.)_orig_mod(?=\.)", "", name).lstrip(".").removeprefix("model.") for name in shapes}
    if variant is None:
        variant = next((kind for kind, mark in MARKS.items() if mark in plain.values()), None)
    if variant is None:
        raise ValueError(f"{path}: has neither {' nor '.join(MARKS.values())}; expected the weights of pi0 or pi0.5")
    names = {stored: ours for stored, name in plain.items() if (ours := our_name(name, variant)) is not None}
    if EMBEDDING in names.values():
        names = {stored: ours for stored, ours in names.items() if ours != HEAD}
    else:  # tied, and stored once
        names = {stored: EMBEDDING if ours == HEAD else ours for stored, ours in names.items()}
    return StoredWeights(path, variant, names, {ours: shapes[stored] for stored, ours in names.items()})


def load_stored(stored: StoredWeights, config: Pi0Config) -> tuple[Pi0Policy, MappedFile]:
    """A policy over the mapped file. Raises ValueError, before anything is read, for weights that are missing, too many
    or of another shape, and for values that are not finite."""
    policy = fill.build_on_meta(config, str(stored.path))
    assert isinstance(policy, Pi0Policy)
    last = f"text_layers.{config.text.num_layers - 1}."
    wanted = {
        name: ours
        for name, ours in stored.names.items()
        if not ours.startswith(last) or _LAST_READS.match(ours) is not None
    }
    shapes = {ours: stored.shapes[ours] for ours in wanted.values()}
    with explained(f"{stored.path}: "):
        fill.check_shapes(shapes, policy, "give a whole checkpoint of pi0 or pi0.5")
    checkpoint = open_stored(stored.path, wanted.get)
    check_stored(stored.path, checkpoint)
    fill.fill_policy(policy, checkpoint.weights.__getitem__)
    return policy.eval(), checkpoint.memory


def our_name(name: str, variant: str) -> str | None:
    """Of a stored name without its ``model.``: None for what nobody reads here; a name that isn't known stays, and is
    refused by it."""
    if is_statistic(name):
        return None
    if variant == "pi05":
        if name.startswith("state_proj.") or re.search(r"gemma_expert\..*norm\.weight$", name):
            return None
        name = name.replace("action_time_mlp_", "time_mlp_")
    elif name.startswith("time_mlp_"):
        name = f"action_{name}"
    if not name.startswith(TOWERS):
        return quoted(name)
    name = name.removeprefix(TOWERS)
    for theirs, ours in PREFIXES:
        if name.startswith(theirs):
            return None if ours is None else ours + name.removeprefix(theirs)
    return quoted(name)
