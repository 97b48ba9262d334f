"""A recorded case of LeRobot's ACT: what the reference made of an observation, part by part, in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from vla_ros.policies.act.lerobot import import_lerobot
from vla_ros.policies.act.policy import ActInputs, ActPolicy, normalize
from vla_ros.policies.act.transformer import image_positions
from vla_ros.policies.importing.case import CaseRobot, LeRobotCase
from vla_ros.policies.importing.difference import Difference, difference
from vla_ros.policies.importing.lerobot import LeRobotCheckpoint

# Absolute, in float32 on a CPU. Features reach 27, where LeRobot's own recorded numbers are 1.0e-5 from the result in
# float64, and what the encoder makes of them is 8.5e-6 from it.
EXACT, PIXELS, FEATURES, HIDDEN, ACTIONS = 0.0, 5e-7, 3e-5, 1e-5, 2e-4
ALLOWED = {"feature_map": FEATURES, "image_tokens": FEATURES, "encoder_in": FEATURES, "encoder_out": FEATURES}


def compare_lerobot(
    checkpoint: LeRobotCheckpoint, case: LeRobotCase, folder: Path, packed: bool = True
) -> dict[str, Difference]:
    """Every recorded output of the case's first step by name; nothing more is needed of the ``folder``. Raises
    ValueError as an import does."""
    case = replace(case, images={key: image[0] for key, image in case.images.items()}, state=case.state[0])
    robot = CaseRobot.of(case, [each.key for each in checkpoint.cameras])
    imported = import_lerobot(checkpoint, robot.settings((False,) * len(case.state)))
    policy, processor, observation = imported.policy, imported.processor, robot.observation(case)
    assert isinstance(policy, ActPolicy)
    if packed:
        policy.pack_weights()
    request = processor.process(observation)
    inputs = policy.unpack_request(request)
    with torch.inference_mode():
        outputs = _parts(policy, inputs)
        actions = policy.sample(inputs, policy.prepare())
    outputs |= {"state_normalized": torch.from_numpy(request.state), "chunks_normalized": actions}
    outputs["selected_normalized"] = actions[:, 0]
    outputs["chunks"] = torch.from_numpy(processor.decode(actions[0].numpy(), observation).positions)[None]
    outputs["selected"] = outputs["chunks"][:, 0]
    return {
        name: difference(got, case.expected[name], _allowed(name))
        for name, got in outputs.items()
        if name in case.expected
    }


def _allowed(name: str) -> float:
    exact = {"state_normalized": EXACT, "chunks": ACTIONS, "selected": ACTIONS}
    stem = name.partition(".")[0]
    return exact.get(name, PIXELS if stem == "image" else ALLOWED.get(stem, HIDDEN))


def _parts(policy: ActPolicy, inputs: ActInputs) -> dict[str, torch.Tensor]:
    """What lies between pictures and actions, by the names that the reference has for it."""
    outputs, config = {}, policy.config
    features = policy.see(inputs.images)
    for i, (image, camera) in enumerate(zip(inputs.images, config.cameras, strict=True)):
        pixels, (rows, cols) = normalize(image, camera), features[i].shape[-2:]
        places = image_positions(rows, cols, config.hidden_size, pixels.dtype, pixels.device)
        outputs[f"image.{i}"] = pixels
        outputs[f"feature_map.{i}"] = policy.backbone(pixels)
        outputs[f"image_tokens.{i}"] = features[i]
        outputs[f"image_pos_embedding.{i}"] = places.T.unflatten(1, (rows, cols))[None]
    tokens = policy.tokens(features, inputs.state, inputs.state.new_zeros(1, config.latent_dim))
    memory = policy.encode(tokens)
    queries = policy.decoder_pos_embed.weight
    decoded = policy.decoder(policy.prepare(), queries, memory.states, memory.positions)
    named = {"encoder_in": tokens.states, "encoder_pos": tokens.positions[None], "encoder_out": memory.states}
    return outputs | named | {"decoder_out": decoded}
