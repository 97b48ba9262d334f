"""Configuration of the action expert. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.strict import check_choice, check_range

# Far beyond any model there is.
MAX_LAYERS, MAX_WIDTH = 256, 1 << 17
QK_NORMS = ("layernorm", "rmsnorm", "none")


@dataclass(frozen=True)
class ActionExpertConfig:
    """The DiT action expert: ``num_hidden_layers * cross_attention_every`` blocks."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_hidden_layers: int
    cross_attention_every: int = 2
    only_attend_to_final_layer: bool = False
    qk_norm: str = "layernorm"
    rotary_self_attn: bool = True
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    attention_bias: bool = True

    def __post_init__(self) -> None:
        check_choice("action_expert_cfg.qk_norm", self.qk_norm, QK_NORMS)
        where, heads = "action_expert_cfg.", ("num_attention_heads", "num_key_value_heads")
        check_range(where, self, 1, MAX_WIDTH, "hidden_size", "intermediate_size", "head_dim", *heads)
        check_range(where, self, 1, MAX_LAYERS, "num_hidden_layers", "cross_attention_every")
        if self.num_attention_heads % self.num_key_value_heads:
            heads = f"{self.num_attention_heads} heads, {self.num_key_value_heads} key/value heads"
            raise ValueError(f"action_expert_cfg: {heads}; the first must be a multiple of the second")
        if self.head_dim % 2 or self.hidden_size % 2:
            got = f"head_dim is {self.head_dim} and hidden_size {self.hidden_size}"
            raise ValueError(f"action_expert_cfg: {got}; expected even numbers")
