"""The attention of the action expert, of the suffix to itself or to the prefix."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vla_ros.policies.modules.action_expert.config import ActionExpertConfig
from vla_ros.policies.utils.transformers import Rotary, rms_norm, swap_halves


class HeadTurns(NamedTuple):
    """What norm and rotary embedding of a self block do to its queries and keys, after the norm's division:
    ``x * scale + swap_halves(x) * swapped + shift``."""

    scale: Float[Tensor, "rows heads head_dim"]
    swapped: Float[Tensor, "rows heads head_dim"]
    shift: Float[Tensor, "rows heads head_dim"]


class Attention(nn.Module):
    """Attention of the suffix to itself (``context_size`` None) or to the prefix."""

    def __init__(self, config: ActionExpertConfig, context_size: int | None) -> None:
        super().__init__()
        width, dim, bias = config.hidden_size, config.head_dim, config.attention_bias
        self.head_dim, self.eps, self.qk_norm = dim, config.rms_norm_eps, config.qk_norm
        self.gqa = config.num_attention_heads != config.num_key_value_heads
        self.q_proj = nn.Linear(width, config.num_attention_heads * dim, bias)
        self.k_proj = nn.Linear(context_size or width, config.num_key_value_heads * dim, bias)
        self.v_proj = nn.Linear(context_size or width, config.num_key_value_heads * dim, bias)
        self.o_proj = nn.Linear(config.num_attention_heads * dim, width, bias)
        if config.qk_norm == "layernorm":
            self.q_norm = nn.LayerNorm(dim, eps=config.rms_norm_eps)
            self.k_norm = nn.LayerNorm(dim, eps=config.rms_norm_eps)

    def heads(
        self, projected: Float[Tensor, "batch rows out"], norm: str = ""
    ) -> Float[Tensor, "batch rows heads head_dim"]:
        """Queries, keys or values by head; ``norm`` is the name of that of queries and of keys."""
        x = projected.unflatten(-1, (-1, self.head_dim))
        if not norm or self.qk_norm == "none":
            return x
        return rms_norm(x, None, self.eps) if self.qk_norm == "rmsnorm" else getattr(self, norm)(x)

    def turns(self, rotary: Rotary) -> HeadTurns:
        """Norm and rotary embedding of queries and keys as one."""
        dtype, num_queries = self.k_proj.weight.dtype, self.q_proj.out_features // self.head_dim
        num_heads = num_queries + self.k_proj.out_features // self.head_dim
        ones = torch.ones(num_heads, self.head_dim, device=rotary.cos.device)
        weight, bias = ones, torch.zeros_like(ones)
        if self.qk_norm == "layernorm":
            norms = (self.q_norm,) * num_queries + (self.k_norm,) * (num_heads - num_queries)
            weight, bias = (torch.stack([getattr(norm, name).float() for norm in norms]) for name in ("weight", "bias"))
        turned = (
            weight * rotary.cos,
            swap_halves(weight) * rotary.sin,
            bias * rotary.cos + swap_halves(bias) * rotary.sin,
        )
        return HeadTurns(*(table[0].to(dtype) for table in turned))

    def turn(self, projected: Float[Tensor, "batch rows out"], turns: HeadTurns) -> tuple[Tensor, Tensor]:
        """Queries and keys [batch, rows, heads, head_dim] out of packed projections: normed together, values too, for
        so they lie as they are read, and turned."""
        x = projected.unflatten(-1, (-1, self.head_dim))
        if self.qk_norm == "layernorm":
            x = F.layer_norm(x, (self.head_dim,), eps=self.eps)
        elif self.qk_norm == "rmsnorm":
            x = rms_norm(x, None, self.eps)
        num_queries, num_heads = self.q_proj.out_features // self.head_dim, turns.scale.shape[1]
        if not torch.compiler.is_compiling():
            queries, keys = _turned(x[:, :, :num_heads], turns).split((num_queries, num_heads - num_queries), dim=2)
            return queries, keys
        # Each by a kernel that writes it as attention reads it: out of both together it would be copied.
        first = HeadTurns(*(table[:, :num_queries] for table in turns))
        second = HeadTurns(*(table[:, num_queries:] for table in turns))
        return _turned(x[:, :, :num_queries], first), _turned(x[:, :, num_queries:num_heads], second)

    def attend(
        self,
        queries: Float[Tensor, "batch heads rows head_dim"],
        keys: Float[Tensor, "batch kv_heads slice head_dim"],
        values: Float[Tensor, "batch kv_heads slice head_dim"],
        bias: Float[Tensor, "batch 1 1 slice"] | None = None,
    ) -> Float[Tensor, "batch rows inner"]:
        """What the heads give, side by side: before the output projection."""
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, enable_gqa=self.gqa)
        return out.transpose(1, 2).flatten(-2)


def _turned(x: Float[Tensor, "batch rows heads head_dim"], turns: HeadTurns) -> Tensor:
    return torch.addcmul(torch.addcmul(turns.shift, x, turns.scale), swap_halves(x), turns.swapped)
