"""The DiT action expert: self- and cross-attention blocks, each modulated by the flow time.

Several draws of noise for one sample share everything that depends on the sample: they are a dimension of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vla_ros.policies.modules.action_expert.attention import Attention, HeadTurns
from vla_ros.policies.modules.action_expert.config import ActionExpertConfig
from vla_ros.policies.modules.action_expert.modulation import (
    AbsorbedModulation,
    AdaptiveModulation,
    BlockModulation,
    Modulation,
    freeze_rows,
)
from vla_ros.policies.modules.layers.heads import additive_mask
from vla_ros.policies.modules.layers.packing import PackedLayer, ReorderedLinear, gated_mlp
from vla_ros.policies.utils.transformers import (
    Rotary,
    apply_rotary,
    modulated_rms_norm,
    rms_norm,
    rotary_angles,
)


@dataclass(frozen=True)
class TimeGrid:
    """Euler steps from flow time 1: for each step the modulation of every block.

    ``clean`` is that of flow time 0, for frozen actions; None where the policy was trained without. ``rotary`` turns
    the suffix's rows, where they are turned. For packed weights ``absorbed`` are the ``steps`` for rows that share
    them, and ``turns`` what norms and turns the heads of each self block at once.
    """

    steps: tuple[tuple[BlockModulation, ...], ...]
    clean: tuple[BlockModulation, ...] | None = None
    rotary: Rotary | None = None
    absorbed: tuple[tuple[BlockModulation, ...], ...] | None = None
    turns: tuple[HeadTurns, ...] | None = None

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

    def absorb(self, modulations: Sequence[BlockModulation]) -> tuple[BlockModulation, ...]:
        """Those of several steps for rows that share them; the weights are packed."""
        assert self.packed is not None, "pack_weights comes first"
        halves = []
        for half, project in (("attention", self.packed.qkv), ("mlp", self.packed.gate_up)):
            steps = [getattr(modulation, half) for modulation in modulations]
            biases = project.absorb(torch.cat([step.shift.flatten(0, -2) for step in steps]))
            halves.append(
                AbsorbedModulation(bias, step.scale.flatten(), step.gate.flatten())
                for bias, step in zip(biases, steps, strict=True)
            )
        return tuple(BlockModulation(*pair) for pair in zip(*halves, strict=True))

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
        rotary: Rotary | HeadTurns | None,
    ) -> Float[Tensor, "batch draws suffix width"]:
        """``context`` is (keys, values, mask) of a cross block; ``rotary`` how a self block's heads are turned."""
        normed, bias = self._modulated(x, modulation.attention)
        if context is None:
            attended = self._self_attention(normed, bias, rotary)
        else:
            attended = self._cross(normed, bias, context)
        x = torch.addcmul(x, modulation.attention.gate, attended)
        normed, bias = self._modulated(x, modulation.mlp)
        return torch.addcmul(x, modulation.mlp.gate, gated_mlp(self.mlp, self.packed, normed, bias))

    def _modulated(self, x: Tensor, modulation: Modulation | AbsorbedModulation) -> tuple[Tensor, Tensor | None]:
        """``x`` normed and modulated, and the bias of what reads it, where that isn't the layer's own."""
        if isinstance(modulation, Modulation):
            return modulated_rms_norm(x, modulation.scale, modulation.shift, self.eps), None
        return modulated_rms_norm(x, modulation.scale, None, self.eps), modulation.bias

    def _self_attention(self, x: Tensor, bias: Tensor | None, rotary: Rotary | HeadTurns | None) -> Tensor:
        rows, attn = x.flatten(0, 1), self.attn
        if self.packed is not None and isinstance(rotary, HeadTurns):
            projected = self.packed.qkv(rows, bias)
            queries, keys = attn.turn(projected, rotary)
            values = projected[..., -self.packed.qkv.sizes[2] :]
        else:
            queries, keys, values = self._plain_heads(rows, bias, rotary)
        values = attn.heads(values).transpose(1, 2)
        out = attn.attend(queries.transpose(1, 2), keys.transpose(1, 2), values)
        return self._project_out(out).unflatten(0, x.shape[:2])

    def _plain_heads(self, rows: Tensor, bias: Tensor | None, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, normed and turned one after the other, and values as they are projected."""
        attn = self.attn
        if self.packed is None:
            queries, keys, values = attn.q_proj(rows), attn.k_proj(rows), attn.v_proj(rows)
        else:
            queries, keys, values = self.packed.qkv(rows, bias).split(self.packed.qkv.sizes, dim=-1)
        queries, keys = attn.heads(queries, "q_norm"), attn.heads(keys, "k_norm")
        if rotary is not None:
            both = apply_rotary(torch.cat((queries, keys), dim=2), rotary)
            queries, keys = both.split((queries.shape[2], keys.shape[2]), dim=2)
        return queries, keys, values

    def _cross(self, x: Tensor, bias: Tensor | None, context: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
        rows = x.flatten(1, 2)  # all draws of a sample share its keys and values
        queries = self.attn.heads(
            self.attn.q_proj(rows) if self.packed is None else self.packed.qkv(rows, bias), "q_norm"
        )
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

    def absorb(self, grid: TimeGrid) -> TimeGrid:
        """The grid with its shifts absorbed, for packed weights."""
        blocks = (block.absorb(steps) for block, steps in zip(self.blocks, zip(*grid.steps, strict=True), strict=True))
        return replace(grid, absorbed=tuple(zip(*blocks, strict=True)))

    def turn_at_once(self, grid: TimeGrid) -> TimeGrid:
        """The grid with norm and rotary embedding of heads as one, for packed weights: fewer kernels, and numbers for
        each head to read, for which a CPU takes longer than for the kernels."""
        if grid.rotary is None:
            return grid
        return replace(grid, turns=tuple(block.attn.turns(grid.rotary) for block in self.blocks if not block.is_cross))

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
        if pad_mask is not None:
            bias = additive_mask(pad_mask[:, None, None], states[0].dtype)
        return SuffixInput(states, contexts, bias, time_grid)

    def forward(
        self,
        x: Float[Tensor, "batch draws suffix width"],
        suffix_input: SuffixInput,
        modulations: tuple[BlockModulation, ...],
    ) -> Float[Tensor, "batch draws suffix width"]:
        """The suffix after all blocks and the final norm, from a prepared ``suffix_input``."""
        grid, contexts = suffix_input.time_grid, iter(suffix_input.contexts)
        assert grid is not None, "run takes what has no time grid"
        turns = iter(grid.turns or (grid.rotary,) * len(self.blocks))
        for block, modulation in zip(self.blocks, modulations, strict=True):
            if block.is_cross:
                x = block(x, modulation, (*next(contexts), suffix_input.pad_bias), None)
            else:
                x = block(x, modulation, None, next(turns))
        return rms_norm(x, None, self.config.rms_norm_eps)

    def run(
        self, x: Float[Tensor, "batch draws suffix width"], suffix_input: SuffixInput, times: FlowTimes
    ) -> Float[Tensor, "batch draws suffix width"]:
        """The same with nothing prepared: each block does all of its own at once."""
        rotary, states = self.rotary(x.shape[2], x.device), iter(suffix_input.states)
        for block in self.blocks:
            x = block.run(x, times, next(states) if block.is_cross else None, suffix_input.pad_bias, rotary)
        return rms_norm(x, None, self.config.rms_norm_eps)

    def rotary(self, num_rows: int, device: torch.device) -> Rotary | None:
        """Positions start at 0 and not at the prefix's length: attention sees their differences only."""
        if not self.config.rotary_self_attn:
            return None
        return rotary_angles(num_rows, self.config.head_dim, self.config.rope_theta, device)
