"""The action expert's step on a GPU, seven kernels a block: what the plain form in ``dit`` computes, to rounding.

At a chunk's few rows a step is one pass over the weights. The library leaves half of the memory's bandwidth unused on
products of so few rows, and as much time again goes into what lies between them: figures in benchmarks/README.md.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

import kernels
from kernels.attention import attention
from kernels.ends import embed_and_norm, project
from kernels.linear import GATED, PARTIAL, PLAIN, linear, tiles_for
from kernels.residual import add_and_norm
from vla_ros.policies.modules.action_expert.dit import DiTActionExpert, DiTBlock, SuffixInput
from vla_ros.policies.modules.action_expert.modulation import BlockModulation
from vla_ros.policies.modules.layers.packing import PackedLinear
from vla_ros.policies.utils.transformers import rotary_angles

MAX_ROWS = 64


class SuffixEnds(NamedTuple):
    """The layers around the expert; positions are None where none are added, and ``state_in`` where it isn't read."""

    state_in: nn.Linear | None
    action_in: nn.Linear
    action_out: nn.Linear
    state_position: Tensor | None
    action_position: Tensor | None


def can_fuse(expert: DiTActionExpert, suffix: Tensor) -> bool:
    """Whether the kernels take a packed expert and a ``suffix`` [batch, draws, rows, *] in its weights' type."""
    config = expert.config
    sizes = (config.hidden_size, config.intermediate_size, config.num_attention_heads * config.head_dim)
    return (
        kernels.may_run(suffix)
        and expert.blocks[0].packed is not None
        and suffix.shape[0] * suffix.shape[1] == 1
        and suffix.shape[2] <= MAX_ROWS
        and config.head_dim in (32, 64, 128, 256)
        and all(size % 256 == 0 for size in sizes)
    )


def fused_velocity(
    expert: DiTActionExpert,
    ends: SuffixEnds,
    state: Float[Tensor, "1 history state"],
    suffix_input: SuffixInput,
    noisy_actions: Float[Tensor, "1 1 horizon action"],
    modulations: tuple[BlockModulation, ...],
) -> Float[Tensor, "1 1 horizon action"]:
    """The velocity, float32."""
    eps, dtype = expert.config.rms_norm_eps, ends.action_in.weight.dtype
    has_position = ends.action_position is not None
    state_end = (
        None if ends.state_in is None else (state[0], ends.state_in.weight, ends.state_in.bias, ends.state_position)
    )
    action_end = (noisy_actions[0, 0], ends.action_in.weight, ends.action_in.bias, ends.action_position)
    first = modulations[0].attention
    x, normed = embed_and_norm(
        state_end, action_end, has_position, (_rows(first.scale), _rows(first.shift)), eps, dtype
    )
    following = [*modulations[1:], None]
    cross = iter(suffix_input.contexts)
    for block, modulation, after in zip(expert.blocks, modulations, following, strict=True):
        context = next(cross) if block.is_cross else None
        attended = _attend(expert, block, normed, context, suffix_input.pad_bias)
        normed = _block(block, x, attended, modulation, after, eps)
    num_actions = noisy_actions.shape[2]
    return project(normed[-num_actions:], ends.action_out.weight, ends.action_out.bias)[None, None]


def _attend(
    expert: DiTActionExpert,
    block: DiTBlock,
    normed: Float[Tensor, "rows width"],
    context: tuple[Tensor, Tensor] | None,
    pad_bias: Tensor | None,
) -> Float[Tensor, "rows inner"]:
    assert block.packed is not None
    attn, config, qkv = block.attn, expert.config, block.packed.qkv
    projected = linear(normed, qkv.weight, qkv.bias, PLAIN, tiles_for(*qkv.weight.shape, PLAIN))
    norms: tuple[Tensor | None, ...] = (None,) * 4
    if attn.qk_norm == "layernorm":
        norms = (attn.q_norm.weight, attn.q_norm.bias, attn.k_norm.weight, attn.k_norm.bias)
    if context is not None:
        keys, values = (heads[0].transpose(0, 1) for heads in context)
        bias = None if pad_bias is None else pad_bias.flatten()
        return attention(projected, keys, values, bias, norms, None, False, attn.qk_norm, attn.eps)
    queries, keys, values = projected.split(qkv.sizes, dim=-1)
    rotary = None
    if config.rotary_self_attn:
        angles = rotary_angles(len(normed), config.head_dim, config.rope_theta, normed.device)
        rotary = (angles.cos.view(-1, config.head_dim), angles.sin.view(-1, config.head_dim))
    keys, values = (heads.unflatten(-1, (-1, config.head_dim)) for heads in (keys, values))
    return attention(queries, keys, values, None, norms, rotary, True, attn.qk_norm, attn.eps)


def _block(
    block: DiTBlock,
    x: Float[Tensor, "rows width"],
    attended: Float[Tensor, "rows inner"],
    modulation: BlockModulation,
    after: BlockModulation | None,
    eps: float,
) -> Float[Tensor, "rows width"]:
    """Adds attention and MLP to ``x`` in place; what comes back is ``x`` normed for the next block, or for the end."""
    packed = block.packed
    assert packed is not None
    out, gate_up, down = packed.out, packed.gate_up, packed.down
    assert isinstance(out, PackedLinear) and isinstance(down, PackedLinear)
    mlp, dtype = modulation.mlp, attended.dtype
    partial = linear(attended, out.weight, None, PARTIAL, tiles_for(*out.weight.shape, PARTIAL))
    normed = add_and_norm(
        x, partial, out.bias, _rows(modulation.attention.gate), (_rows(mlp.scale), _rows(mlp.shift)), eps, dtype
    )
    hidden = linear(normed, gate_up.weight, None, GATED, tiles_for(*gate_up.weight.shape, GATED))
    partial = linear(hidden, down.weight, None, PARTIAL, tiles_for(*down.weight.shape, PARTIAL))
    following = None if after is None else (_rows(after.attention.scale), _rows(after.attention.shift))
    return add_and_norm(x, partial, down.bias, _rows(mlp.gate), following, eps, dtype)


def _rows(modulation: Float[Tensor, "1 1 #suffix width"]) -> Float[Tensor, "#suffix width"]:
    return modulation.flatten(0, 2)
