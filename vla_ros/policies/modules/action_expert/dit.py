"""The DiT action expert: self- and cross-attention blocks, each modulated by the flow time.

Adaptive layer norm after Peebles & Xie, "Scalable Diffusion Models with Transformers", section 3.2. Several
draws of noise for one sample share everything that depends on the sample: they are a dimension of their own.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from vla_ros.policies.modules.action_expert.config import ActionExpertConfig
from vla_ros.policies.modules.layers.packing import PackedLayer, ReorderedLinear, gated_mlp, project_qkv
from vla_ros.policies.utils.transformers import Rotary, apply_rotary, modulated_rms_norm, rms_norm, rotary_angles

MIN_PERIOD, MAX_PERIOD = 4e-3, 4.0


class Modulation(NamedTuple):
    """What the flow time does to one half of a block: ``gate * f(x * scale + shift)``; ``scale`` includes the 1."""

    shift: Float[Tensor, "#batch #draws #suffix width"]
    scale: Float[Tensor, "#batch #draws #suffix width"]
    gate: Float[Tensor, "#batch #draws #suffix width"]


class BlockModulation(NamedTuple):
    """The modulations of a block's attention and of its MLP."""

    attention: Modulation
    mlp: Modulation


Modulations = TypeVar("Modulations", BlockModulation, tuple[BlockModulation, ...])
"""Of one block, or of all."""


@dataclass(frozen=True)
class TimeGrid:
    """Euler steps from flow time 1: for each step the modulation of every block.

    ``clean`` is that of flow time 0, for frozen actions; None where the policy was trained without.
    """

    steps: tuple[tuple[BlockModulation, ...], ...]
    clean: tuple[BlockModulation, ...] | None = None

    @property
    def num_steps(self) -> int:
        return len(self.steps)


class KeysValues(NamedTuple):
    """What a cross block attends to."""

    keys: Float[Tensor, "batch kv_heads slice head_dim"]
    values: Float[Tensor, "batch kv_heads slice head_dim"]


@dataclass(frozen=True)
class SuffixInput:
    """What the blocks read besides the suffix itself: of each cross block the prefix state that it attends to, and,
    where there is a ``time_grid``, what is prepared for many steps: keys and values of it.

    ``pad_bias`` is added to attention scores, -inf at padding, and None where every key is valid.
    """

    states: tuple[Float[Tensor, "batch slice hidden"], ...]
    contexts: tuple[KeysValues, ...]
    pad_bias: Float[Tensor, "batch 1 1 slice"] | None
    time_grid: TimeGrid | None


class FlowTimes(NamedTuple):
    """Flow times that nothing is prepared for, embedded: of the draws, and where rows are frozen also time 0."""

    noisy: Float[Tensor, "batch draws width"]
    clean: Float[Tensor, "batch draws width"] | None = None
    is_frozen: Bool[Tensor, "batch #draws suffix"] | None = None


def embed_time(time: Float[Tensor, "*times"], width: int) -> Float[Tensor, "*times width"]:
    """Sines then cosines of ``time`` at ``width / 2`` periods, geometric from 4e-3 to 4; float32."""
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float32, device=time.device)
    period = MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD) ** fraction
    angle = time.float()[..., None] * (2 * math.pi / period)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def freeze_rows(noisy: Modulations, clean: Modulations, is_frozen: Bool[Tensor, "batch #draws suffix"]) -> Modulations:
    """``clean`` in the frozen rows of the suffix, ``noisy`` in the others."""
    chosen = is_frozen[..., None]
    return tree_map(lambda frozen, other: torch.where(chosen, frozen, other), clean, noisy)


class AdaptiveModulation(nn.Module):
    """Shift, scale and gate from the time embedding. Starts as the plain block: no shift, no scale, gate 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)
        nn.init.zeros_(self.modulation.weight)
        with torch.no_grad():
            self.modulation.bias.copy_(torch.cat((torch.zeros(2 * width), torch.ones(width))))

    def forward(self, time_embedding: Float[Tensor, "batch draws width"]) -> Modulation:
        shift, scale, gate = self.modulation(F.silu(time_embedding)).unsqueeze(-2).chunk(3, dim=-1)
        return Modulation(shift, 1 + scale, gate)


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


class GatedMLP(nn.Module):
    """The weights of ``down(silu(gate(x)) * up(x))``, without biases; run by ``gated_mlp``."""

    def __init__(self, width: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, intermediate, bias=False)
        self.up_proj = nn.Linear(width, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, width, bias=False)
        self.act_fn = nn.SiLU()


@dataclass(frozen=True)
class PackedBlock(PackedLayer):
    """Of a cross block, ``qkv`` gives the queries alone, and ``context`` the prefix's keys and values."""

    context: ReorderedLinear | None


class DiTBlock(nn.Module):
    """Modulated attention, then a modulated MLP; RMS norms without weights."""

    def __init__(self, config: ActionExpertConfig, context_size: int | None) -> None:
        super().__init__()
        self.is_cross = context_size is not None
        self.eps = config.rms_norm_eps
        self.ada_mod1 = AdaptiveModulation(config.hidden_size)
        self.attn = Attention(config, context_size)
        self.ada_mod2 = AdaptiveModulation(config.hidden_size)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size)
        self.packed: PackedBlock | None = None

    def pack_weights(self) -> None:
        """Lay the weights out for inference."""
        attn, mlp = self.attn, self.mlp
        context = (attn.k_proj, attn.v_proj)
        self.packed = PackedBlock(
            qkv=ReorderedLinear((attn.q_proj,) if self.is_cross else (attn.q_proj, *context)),
            out=ReorderedLinear((attn.o_proj,)),
            gate_up=ReorderedLinear((mlp.gate_proj, mlp.up_proj)),
            down=ReorderedLinear((mlp.down_proj,)),
            context=ReorderedLinear(context) if self.is_cross else None,
        )

    def modulate(self, time_embedding: Float[Tensor, "batch draws width"]) -> BlockModulation:
        """What a flow time does to the block."""
        return BlockModulation(self.ada_mod1(time_embedding), self.ada_mod2(time_embedding))

    def read(self, state: Float[Tensor, "batch slice hidden"]) -> KeysValues:
        """That of a cross block from the prefix state it attends to."""
        attn = self.attn
        if self.packed is None or self.packed.context is None:
            keys, values = attn.k_proj(state), attn.v_proj(state)
        else:
            keys, values = self.packed.context.split(state)
        return KeysValues(attn.heads(keys, "k_norm").transpose(1, 2), attn.heads(values).transpose(1, 2))

    def run(
        self,
        x: Float[Tensor, "batch draws suffix width"],
        times: FlowTimes,
        state: Float[Tensor, "batch slice hidden"] | None,
        pad_bias: Float[Tensor, "batch 1 1 slice"] | None,
        rotary: Rotary | None,
    ) -> Float[Tensor, "batch draws suffix width"]:
        """All of the block at once, nothing prepared: ``state`` is what a cross block attends to."""
        modulation = self.modulate(times.noisy)
        if times.is_frozen is not None:
            assert times.clean is not None
            modulation = freeze_rows(modulation, self.modulate(times.clean), times.is_frozen)
        return self.forward(x, modulation, None if state is None else (*self.read(state), pad_bias), rotary)

    def forward(
        self,
        x: Float[Tensor, "batch draws suffix width"],
        modulation: BlockModulation,
        context: tuple[Tensor, Tensor, Tensor | None] | None,
        rotary: Rotary | None,
    ) -> Float[Tensor, "batch draws suffix width"]:
        """``context`` is (keys, values, mask) of a cross block; ``rotary`` the angles of a self block."""
        shift, scale, gate = modulation.attention
        normed = modulated_rms_norm(x, scale, shift, self.eps)
        attended = self._self_attention(normed, rotary) if context is None else self._cross(normed, context)
        x = torch.addcmul(x, gate, attended)
        shift, scale, gate = modulation.mlp
        normed = modulated_rms_norm(x, scale, shift, self.eps)
        return torch.addcmul(x, gate, gated_mlp(self.mlp, self.packed, normed))

    def _self_attention(self, x: Tensor, rotary: Rotary | None) -> Tensor:
        rows = x.flatten(0, 1)
        queries, keys, values = project_qkv(self.attn, self.packed, rows, rows.shape[1])
        queries, keys = self.attn.heads(queries, "q_norm"), self.attn.heads(keys, "k_norm")
        if rotary is not None:
            both = apply_rotary(torch.cat((queries, keys), dim=2), rotary)
            queries, keys = both.split((queries.shape[2], keys.shape[2]), dim=2)
        values = self.attn.heads(values).transpose(1, 2)
        out = self.attn.attend(queries.transpose(1, 2), keys.transpose(1, 2), values)
        return self._project_out(out).unflatten(0, x.shape[:2])

    def _cross(self, x: Tensor, context: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
        project = self.attn.q_proj if self.packed is None else self.packed.qkv
        queries = self.attn.heads(project(x.flatten(1, 2)), "q_norm")  # all draws of a sample share its keys and values
        out = self.attn.attend(queries.transpose(1, 2), *context)
        return self._project_out(out).unflatten(1, x.shape[1:3])

    def _project_out(self, heads: Float[Tensor, "batch rows inner"]) -> Float[Tensor, "batch rows width"]:
        return self.attn.o_proj(heads) if self.packed is None else self.packed.out(heads)


class DiTActionExpert(nn.Module):
    """The blocks and the final norm. Everything enters and leaves at the expert's width."""

    def __init__(self, config: ActionExpertConfig, context_size: int) -> None:
        super().__init__()
        self.config = config
        every = config.cross_attention_every
        cross = [i % every == every - 1 for i in range(config.num_hidden_layers * every)]
        self.blocks = nn.ModuleList(DiTBlock(config, context_size if is_cross else None) for is_cross in cross)

    def pack_weights(self) -> None:
        """Lay the blocks' weights out for inference."""
        for block in self.blocks:
            block.pack_weights()

    def modulate(self, time_embedding: Float[Tensor, "batch draws width"]) -> tuple[BlockModulation, ...]:
        """The modulation of every block."""
        return tuple(block.modulate(time_embedding) for block in self.blocks)

    def prepare(
        self,
        hidden_states: tuple[Float[Tensor, "batch slice hidden"], ...],
        pad_mask: Bool[Tensor, "batch slice"] | None,
        time_grid: TimeGrid | None,
    ) -> SuffixInput:
        """What every cross block reads of the recorded prefix states, one for each or the last for all."""
        recorded = hidden_states[-1:] if self.config.only_attend_to_final_layer else hidden_states
        normed = [rms_norm(state, None, self.config.rms_norm_eps) for state in recorded]
        cross = [block for block in self.blocks if block.is_cross]
        states = tuple(state for _, state in zip(cross, itertools.cycle(normed), strict=False))
        contexts = ()
        if time_grid is not None:
            contexts = tuple(block.read(state) for block, state in zip(cross, states, strict=True))
        bias = None
        if pad_mask is not None:  # as numbers: attention would turn truth values into them in every block of every step
            bias = torch.zeros_like(pad_mask, dtype=states[0].dtype).masked_fill(~pad_mask, -torch.inf)[:, None, None]
        return SuffixInput(states, contexts, bias, time_grid)

    def forward(
        self,
        x: Float[Tensor, "batch draws suffix width"],
        suffix_input: SuffixInput,
        modulations: tuple[BlockModulation, ...],
    ) -> Float[Tensor, "batch draws suffix width"]:
        """The suffix after all blocks and the final norm, from a prepared ``suffix_input``."""
        rotary, contexts = self._rotary(x), iter(suffix_input.contexts)
        for block, modulation in zip(self.blocks, modulations, strict=True):
            context = (*next(contexts), suffix_input.pad_bias) if block.is_cross else None
            x = block(x, modulation, context, rotary)
        return rms_norm(x, None, self.config.rms_norm_eps)

    def run(
        self, x: Float[Tensor, "batch draws suffix width"], suffix_input: SuffixInput, times: FlowTimes
    ) -> Float[Tensor, "batch draws suffix width"]:
        """The same with nothing prepared: each block does all of its own at once."""
        rotary, states = self._rotary(x), iter(suffix_input.states)
        for block in self.blocks:
            x = block.run(x, times, next(states) if block.is_cross else None, suffix_input.pad_bias, rotary)
        return rms_norm(x, None, self.config.rms_norm_eps)

    def _rotary(self, x: Tensor) -> Rotary | None:
        """Positions start at 0 and not at the prefix's length: attention sees their differences only."""
        if not self.config.rotary_self_attn:
            return None
        return rotary_angles(x.shape[2], self.config.head_dim, self.config.rope_theta, x.device)
