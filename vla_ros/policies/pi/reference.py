"""Yardsticks: the Pi policy written plainly over the modules of a ``PiPolicy``, and its prefix as transformers runs it.

``plain_actions`` is ``encode_prefix`` and ``predict_suffix`` composed as the papers describe them: one batched
attention call for each layer, no language-model head, nothing copied without need, but also nothing prepared, packed or
left out. ``as_written_actions`` adds what the published reference also does at each inference: the language-model head
at every token, hidden states, keys and values of all layers stacked into tensors. Of the optimised path only what is
the same operators in any case is called: embeddings, norms, heads, pixels, a SigLIP tower that isn't packed.

Qwen3-VL's interleaved mRoPE and deepstack are described in https://arxiv.org/abs/2511.21631.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.policies.modules.action_expert.modulation import embed_time
from vla_ros.policies.modules.layers.gemma import gemma_norm, norm_weight
from vla_ros.policies.modules.layers.llama import rms_norm_of
from vla_ros.policies.modules.layers.pixels import normalize_patches
from vla_ros.policies.modules.vlm_bridge.data_types import PolicyObservation, VLMInputs
from vla_ros.policies.modules.vlm_bridge.paligemma.bridge import PaliGemmaBridge
from vla_ros.policies.modules.vlm_bridge.qwen.bridge import VISION_ROPE_THETA, QwenBridge
from vla_ros.policies.pi.policy import PiPolicy
from vla_ros.policies.utils.transformers import inverse_frequencies, rms_norm


class LayerOutputs(NamedTuple):
    """States [batch, prefix, hidden]; keys and values [batch, kv_heads, prefix, head_dim] as a cache would hold
    them."""

    states: Tensor
    keys: Tensor
    values: Tensor


CosSin = tuple[Tensor, Tensor]  # each [batch, 1, rows, head_dim], float32


def cos_sin(angles: Tensor) -> CosSin:
    """Of angles [batch, rows, head_dim / 2] in rad."""
    both = torch.cat((angles, angles), dim=-1).unsqueeze(1)
    return both.cos(), both.sin()


def rotate(x: Tensor, rotary: CosSin) -> Tensor:
    """Queries or keys [batch, heads, rows, head_dim], in float32, returned as they came."""
    (first, second), (cos, sin) = x.chunk(2, dim=-1), rotary
    return (x.float() * cos + torch.cat((-second, first), dim=-1).float() * sin).to(x.dtype)


class Context(NamedTuple):
    """The prefix states that the cross blocks read, one [batch, slice, hidden] each, and which positions are valid."""

    states: list[Tensor]
    mask: Tensor


def plain_actions(policy: PiPolicy, observation: PolicyObservation, num_steps: int, noise: Tensor) -> Tensor:
    """Actions [batch, horizon, action] from noise, by the plain composition."""
    states = [outputs.states for outputs in encode_prefix(policy, observation.policy_input)]
    return _sample(policy, observation, states, num_steps, noise)


def as_written_actions(policy: PiPolicy, observation: PolicyObservation, num_steps: int, noise: Tensor) -> Tensor:
    """The same actions, with what the published reference computes besides and nobody reads."""
    inputs = observation.policy_input
    layers = encode_prefix(policy, inputs)
    hidden_states, _, _ = (torch.stack(outputs, dim=1) for outputs in zip(*layers, strict=True))
    policy.vlm_bridge.logits(layers[-1].states[:, : inputs.input_ids.shape[1]]).float()  # for every token's loss
    return _sample(policy, observation, list(hidden_states.unbind(1)), num_steps, noise)


def _sample(
    policy: PiPolicy, observation: PolicyObservation, states: list[Tensor], num_steps: int, noise: Tensor
) -> Tensor:
    context = _context(policy, states, observation.policy_input.attention_mask)
    actions = noise
    for step in range(num_steps):
        time = torch.full((len(noise),), 1 - step / num_steps, device=noise.device)
        actions = actions - predict_suffix(policy, observation.state, context, actions, time) / num_steps
    return actions


def _context(policy: PiPolicy, states: list[Tensor], attention_mask: Tensor) -> Context:
    """The slice that the expert reads, and for each cross block the layer that it reads."""
    num_registers, expert = len(policy.obs_registers), policy.config.action_expert_cfg
    recorded = states[-expert.num_hidden_layers :]
    pad_mask = F.pad(attention_mask, (0, num_registers), value=True)
    if policy.config.expert_only_use_register:
        recorded = [states[:, -num_registers:] for states in recorded]
        pad_mask = pad_mask[:, -num_registers:]
    if expert.only_attend_to_final_layer:
        recorded = recorded[-1:] * len(recorded)
    return Context(recorded, pad_mask)


def encode_prefix(policy: PiPolicy, inputs: VLMInputs) -> list[LayerOutputs]:
    """Each text layer on the states of the one before."""
    bridge, mask, deepstack = policy.vlm_bridge, inputs.prefix_mask[:, None], []
    if isinstance(bridge, QwenBridge):
        features, deepstack = _qwen_vision(bridge.causal_model.model.visual, policy.config, inputs)
    else:
        features = bridge.see(inputs, bridge.vision.unpacked())
    x = bridge.join(inputs, features, policy.obs_registers)
    if isinstance(bridge, PaliGemmaBridge):  # which adds it to scores that it has squashed
        mask = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, -torch.inf)
    is_image, rotary = bridge.is_image(inputs), cos_sin(_angles(bridge.language_model.config, inputs.position_ids))
    outputs = []
    for i, layer in enumerate(bridge.language_model.layers):
        x, keys, values = _layer(layer, x, rotary, mask)
        if i < len(deepstack):
            added = torch.zeros_like(x[:, : is_image.shape[1]]).masked_scatter_(is_image, deepstack[i])
            x = x + F.pad(added, (0, 0, 0, len(policy.obs_registers)))
        outputs.append(LayerOutputs(x, keys, values))
    return outputs


def _angles(config: Any, position_ids: Tensor) -> Tensor:
    """Of three axes, frequency ``i`` turns with height or width at every third place of their sections, else with
    time."""
    parameters = config.rope_parameters
    inverse = inverse_frequencies(config.head_dim, parameters["rope_theta"], position_ids.device)
    by_axis = position_ids[..., None].float() * inverse  # [batch, axes, prefix, half]
    angles = by_axis[:, 0].clone()
    for axis in range(1, by_axis.shape[1]):
        places = slice(axis, 3 * parameters["mrope_section"][axis], 3)
        angles[..., places] = by_axis[:, axis, :, places]
    return angles


def _layer(layer: Any, x: Tensor, rotary: CosSin, mask: Tensor) -> LayerOutputs:
    """Pre-norm; Gemma 2 also norms what attention and MLP add, and its names of norms differ then."""
    attended, keys, values = _attention(layer.self_attn, _norm(layer.input_layernorm, x), rotary, mask)
    if not hasattr(layer, "pre_feedforward_layernorm"):
        x = x + attended
        return LayerOutputs(x + layer.mlp(_norm(layer.post_attention_layernorm, x)), keys, values)
    x = x + _norm(layer.post_attention_layernorm, attended)
    out = layer.mlp(_norm(layer.pre_feedforward_layernorm, x))
    return LayerOutputs(x + _norm(layer.post_feedforward_layernorm, out), keys, values)


def _norm(norm: Any, x: Tensor) -> Tensor:
    return rms_norm_of(norm, x) if hasattr(norm, "variance_epsilon") else gemma_norm(x, norm_weight(norm), norm.eps)


def _attention(attn: Any, x: Tensor, rotary: CosSin, mask: Tensor) -> LayerOutputs:
    """Qwen norms queries and keys, Gemma 2 squashes scores."""
    projections = attn.q_proj, attn.k_proj, attn.v_proj
    queries, keys, values = (linear(x).unflatten(-1, (-1, attn.head_dim)).transpose(1, 2) for linear in projections)
    if hasattr(attn, "q_norm"):
        queries, keys = _norm(attn.q_norm, queries), _norm(attn.k_norm, keys)
    queries, keys = rotate(queries, rotary), rotate(keys, rotary)
    cap, groups = getattr(attn, "attn_logit_softcapping", None), attn.num_key_value_groups
    if cap is None:
        out = F.scaled_dot_product_attention(queries, keys, values, mask, scale=attn.scaling, enable_gqa=groups > 1)
    else:
        grouped = queries.unflatten(1, (keys.shape[1], groups))
        scores = torch.tanh(grouped @ keys.unsqueeze(2).mT * (attn.scaling / cap)) * cap + mask[:, None]
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
        out = (weights @ values.unsqueeze(2)).flatten(1, 2)
    return LayerOutputs(attn.o_proj(out.transpose(1, 2).flatten(2)), keys, values)


def _qwen_vision(visual: Any, config: Any, inputs: VLMInputs) -> tuple[Tensor, list[Tensor]]:
    """Features [image_tokens, hidden] of all images in order, and those of the deepstack layers."""
    _, height, width = inputs.image_grid[0]
    patches = inputs.pixel_values.reshape(-1, height * width, inputs.pixel_values.shape[-1])
    kernel, bias = visual.patch_embed.proj.weight, visual.patch_embed.proj.bias
    if patches.dtype == torch.uint8:  # a still image fills both frames that the kernel spans, so their weights add up
        patches, kernel = normalize_patches(patches, config.image_mean, config.image_std), kernel.sum(2)
    x = F.linear(patches.to(kernel.dtype), kernel.flatten(1), bias)
    x = x + _qwen_positions(visual, height, width).to(x.dtype)
    rotary = _qwen_vision_rotary(visual, height, width, x.device)
    deepstack = []
    for i, block in enumerate(visual.blocks):
        attn = block.attn
        heads = attn.qkv(block.norm1(x)).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = rotate(heads[0], rotary), rotate(heads[1], rotary), heads[2]
        out = F.scaled_dot_product_attention(queries, keys, values)
        x = x + attn.proj(out.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
        if i in visual.deepstack_visual_indexes:
            deepstack.append(visual.deepstack_merger_list[len(deepstack)](x))
    return visual.merger(x), deepstack


def _qwen_positions(visual: Any, height: int, width: int) -> Tensor:
    """The learned square of position embeddings, resized to the image's grid."""
    side = visual.num_grid_per_side
    square = visual.pos_embed.weight.float().T.reshape(1, -1, side, side)
    resized = F.interpolate(square, (height, width), mode="bilinear", align_corners=True)
    return _in_merge_order(resized[0].permute(1, 2, 0), visual.spatial_merge_size)


def _qwen_vision_rotary(visual: Any, height: int, width: int, device: torch.device) -> CosSin:
    """Half of the channels turn with the row, half with the column."""
    inverse = inverse_frequencies(visual.config.hidden_size // visual.config.num_heads // 2, VISION_ROPE_THETA, device)
    rows, cols = (torch.arange(size, device=device)[:, None] * inverse for size in (height, width))
    shape = (height, width, len(inverse))
    angles = torch.cat((rows[:, None].expand(shape), cols[None].expand(shape)), dim=-1)
    return cos_sin(_in_merge_order(angles, visual.spatial_merge_size)[None])


def _in_merge_order(grid: Tensor, merge: int) -> Tensor:
    """[height, width, dim] to [patches, dim]: blocks row by row, and the patches of a block one after another."""
    height, width, dim = grid.shape
    blocks = grid.reshape(height // merge, merge, width // merge, merge, dim)
    return blocks.transpose(1, 2).reshape(-1, dim)


def predict_suffix(policy: PiPolicy, state: Tensor, context: Context, noisy_actions: Tensor, time: Tensor) -> Tensor:
    """The velocity [batch, horizon, action] of noisy actions at flow times [batch]."""
    config, expert = policy.config, policy.config.action_expert_cfg
    dtype = policy.obs_registers.dtype
    x = policy.action_in_proj(noisy_actions.to(dtype))
    if config.suffix_add_pos_emb:
        x = x + policy.position_embedding_action
    if config.use_state:
        states = policy.state_in_proj(state.to(dtype))
        if config.suffix_add_pos_emb:
            states = states + policy.position_embedding_state
        x = torch.cat((states, x), dim=1)
    condition = F.silu(policy.time_mlp(embed_time(time, expert.hidden_size).to(dtype))).unsqueeze(1)
    rotary = None
    if expert.rotary_self_attn:
        positions = context.mask.sum(1, keepdim=True) + torch.arange(x.shape[1], device=x.device)
        inverse = inverse_frequencies(expert.head_dim, expert.rope_theta, x.device)
        rotary = cos_sin(positions[..., None].float() * inverse)
    to_read = iter(context.states)
    for block in policy.action_expert.blocks:
        x = _block(block, x, condition, next(to_read) if block.is_cross else None, context.mask, rotary)
    x = rms_norm(x, None, expert.rms_norm_eps)
    return policy.action_out_proj(x[:, -config.action_horizon :])


def _block(
    block: Any, x: Tensor, condition: Tensor, context: Tensor | None, mask: Tensor, rotary: CosSin | None
) -> Tensor:
    shift, scale, gate = block.ada_mod1.modulation(condition).chunk(3, dim=-1)
    x = x + gate * _block_attention(block, rms_norm(x, None, block.eps) * (1 + scale) + shift, context, mask, rotary)
    shift, scale, gate = block.ada_mod2.modulation(condition).chunk(3, dim=-1)
    normed = rms_norm(x, None, block.eps) * (1 + scale) + shift
    mlp = block.mlp
    return x + gate * mlp.down_proj(F.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed))


def _block_attention(block: Any, x: Tensor, context: Tensor | None, mask: Tensor, rotary: CosSin | None) -> Tensor:
    attn = block.attn
    source = x if context is None else rms_norm(context, None, block.eps)
    queries = attn.heads(attn.q_proj(x), "q_norm").transpose(1, 2)
    keys = attn.heads(attn.k_proj(source), "k_norm").transpose(1, 2)
    values = attn.heads(attn.v_proj(source)).transpose(1, 2)
    if context is None and rotary is not None:
        queries, keys = rotate(queries, rotary), rotate(keys, rotary)
    return attn.o_proj(attn.attend(queries, keys, values, None if context is None else mask[:, None, None]))


def stock_forward(policy: PiPolicy, inputs: VLMInputs) -> Callable[[], Tensor]:
    """What runs the model of transformers by itself over the tokens (registers it doesn't know) and gives its last
    states [batch, seq, hidden], after the final norm.

    Pixels are normalised and arranged beforehand, in its favour, and nothing is kept in a cache.
    """
    config, bridge, (_, rows, cols) = policy.config, policy.vlm_bridge, inputs.image_grid[0]
    batch, seq = inputs.input_ids.shape
    side = config.vlm_config["vision_config"]["patch_size"]
    patches = normalize_patches(inputs.pixel_values, config.image_mean, config.image_std).to(policy.obs_registers.dtype)
    positions = inputs.position_ids[:, :, :seq]
    given: dict[str, Any] = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask.long()}
    if isinstance(bridge, QwenBridge):
        twice = patches.unflatten(-1, (-1, 1, side**2)).expand(-1, -1, -1, 2, -1)  # a still image fills two frames
        given["pixel_values"] = twice.flatten(2).flatten(0, 1)
        given["image_grid_thw"] = torch.tensor(inputs.image_grid * batch, device=inputs.input_ids.device)
        given["mm_token_type_ids"] = (inputs.input_ids == bridge.image_token_id).int()
        given["position_ids"] = positions.transpose(0, 1)
    else:
        grid = patches.reshape(-1, rows, cols, len(config.image_mean), side, side)
        images = grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        given["pixel_values"] = images if isinstance(bridge, PaliGemmaBridge) else images.unflatten(0, (batch, -1))
        given["position_ids"] = positions[:, 0]
    return lambda: bridge.causal_model.model(**given, use_cache=False).last_hidden_state
