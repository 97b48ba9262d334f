"""The package with the candidates in place of its plain forms, for as long as a ``with`` block lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch.nn.functional as F
from torch import Tensor, nn

from kernels import may_run
from kernels.fused import SuffixEnds, can_fuse, fused_velocity
from kernels.gated import gated
from kernels.heads import rotate_heads
from vla_ros.policies.modules.action_expert import dit
from vla_ros.policies.modules.layers import llama, packing
from vla_ros.policies.modules.layers.packing import PackedLayer, project_qkv
from vla_ros.policies.modules.vlm_bridge import base
from vla_ros.policies.modules.vlm_bridge.qwen import bridge as qwen
from vla_ros.policies.pi.policy import PiPolicy
from vla_ros.policies.utils.transformers import Rotary

ACTIVATIONS = {"SiLU": "silu", "SiLUActivation": "silu", "GELUTanh": "gelu_tanh", "PytorchGELUTanh": "gelu_tanh"}
_predict_suffix, _run_layer, _gated_mlp = PiPolicy.predict_suffix, base.VLMBridge.run_layer, packing.gated_mlp
_vision_attention = qwen._vision_attention


@contextmanager
def candidates() -> Iterator[None]:
    """Suffix, rotary embedding and gated MLP by the candidates, wherever those take what comes."""
    with (
        patch.object(PiPolicy, "predict_suffix", predict_suffix),
        patch.object(dit, "gated_mlp", gated_mlp),
        patch.object(llama, "add_gated_mlp", add_gated_mlp),
        patch.object(base.VLMBridge, "run_layer", run_layer),
        patch.object(qwen, "_vision_attention", vision_attention),
    ):
        yield


def predict_suffix(
    policy: PiPolicy, state: Tensor, suffix_input, noisy_actions: Tensor, time, is_frozen=None
) -> Tensor:
    """``PiPolicy.predict_suffix`` at a step of the grid."""
    batch, draws, horizon, _ = noisy_actions.shape
    like = policy.obs_registers[:1, :1].expand(batch, draws, horizon + policy.num_states, 1)
    if not isinstance(time, int) or is_frozen is not None or not can_fuse(policy.action_expert, like):
        return _predict_suffix(policy, state, suffix_input, noisy_actions, time, is_frozen)
    has_position = policy.config.suffix_add_pos_emb
    ends = SuffixEnds(
        policy.state_in_proj if policy.num_states else None,
        policy.action_in_proj,
        policy.action_out_proj,
        policy.position_embedding_state if has_position and policy.num_states else None,
        policy.position_embedding_action if has_position else None,
    )
    modulations = suffix_input.time_grid.steps[time]
    return fused_velocity(policy.action_expert, ends, state, suffix_input, noisy_actions, modulations)


def gated_mlp(mlp: nn.Module, packed: PackedLayer | None, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """``packing.gated_mlp``."""
    activation = ACTIVATIONS.get(type(mlp.act_fn).__name__)
    if packed is None or activation is None or not may_run(x):
        return _gated_mlp(mlp, packed, x, bias)
    return packed.down(gated(packed.gate_up(x.flatten(0, -2), bias), activation)).view(x.shape)


def add_gated_mlp(mlp: nn.Module, packed: PackedLayer | None, x: Tensor, normed: Tensor) -> Tensor:
    """``packing.add_gated_mlp``."""
    return x + gated_mlp(mlp, packed, normed)


def run_layer(
    bridge: base.VLMBridge,
    layer: nn.Module,
    packed: PackedLayer | None,
    x: Tensor,
    rotary: Rotary,
    mask: Tensor,
    num_rows: int,
) -> Tensor:
    """``VLMBridge.run_layer`` of all rows."""
    attn = layer.self_attn
    if packed is None or num_rows != x.shape[1] or not may_run(x):
        return _run_layer(bridge, layer, packed, x, rotary, mask, num_rows)
    projected = project_qkv(attn, packed, base.rms_norm_of(layer.input_layernorm, x), x.shape[1])
    queries, keys, values = (heads.unflatten(-1, (-1, attn.head_dim)) for heads in projected)
    norms = (attn.q_norm.weight, attn.k_norm.weight) if hasattr(attn, "q_norm") else None
    eps = attn.q_norm.variance_epsilon if norms is not None else 0.0
    turned_queries, turned_keys = turned(queries, keys, rotary, norms, eps)
    out = F.scaled_dot_product_attention(
        turned_queries.transpose(1, 2),
        turned_keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=mask,
        enable_gqa=attn.num_key_value_groups > 1,
    )
    x = x + attn.o_proj(out.transpose(1, 2).flatten(-2))
    return x + gated_mlp(layer.mlp, packed, base.rms_norm_of(layer.post_attention_layernorm, x))


def vision_attention(attn: nn.Module, x: Tensor, rotary: Rotary) -> Tensor:
    """``qwen.bridge._vision_attention``."""
    if not may_run(x):
        return _vision_attention(attn, x, rotary)
    queries, keys, values = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).unbind(-3)
    turned_queries, turned_keys = turned(queries, keys, rotary, None, 0.0)
    out = F.scaled_dot_product_attention(
        turned_queries.transpose(1, 2), turned_keys.transpose(1, 2), values.transpose(1, 2)
    )
    return attn.proj(out.transpose(1, 2).flatten(-2))


def turned(queries: Tensor, keys: Tensor, rotary: Rotary, norms, eps: float) -> tuple[Tensor, Tensor]:
    """Queries and keys that lie side by side in one projection, normed and turned."""
    packed = queries.flatten(0, 1)
    both = rotate_heads(
        packed.as_strided((len(packed), 1), (packed.stride(0), 1)),
        (rotary.cos.flatten(0, 2), rotary.sin.flatten(0, 2)),
        queries.shape[2] + keys.shape[2],
        queries.shape[2],
        norms,
        eps,
    )
    return both[0].view(queries.shape), both[1].view(keys.shape)
