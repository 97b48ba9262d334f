"""The ACT policy: pictures and state to a whole chunk in one pass, without steps and without noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from vla_ros.policies.act.backbone import ResNet
from vla_ros.policies.act.config import ActConfig, CameraInput
from vla_ros.policies.act.processor import IMAGE, ActRequest
from vla_ros.policies.act.transformer import Decoder, Encoder, image_positions, sequence_positions
from vla_ros.policies.base import BasePolicy, Layer, LossTerm, OnStage, PolicyLoss, tell_nobody
from vla_ros.policies.utils.transformers import constant
from vla_ros.transforms.sample import TrainingBatch


@dataclass(frozen=True)
class ActInputs:
    """``images`` are each camera's; ``actions`` only in training, where the first ``num_known`` int64 [batch] of them
    are learned (None: all)."""

    images: tuple[UInt8[Tensor, "batch h w 3"], ...]
    state: Float[Tensor, "batch history state"]
    actions: Float[Tensor, "batch horizon action"] | None = None
    num_known: np.ndarray | None = None


@dataclass(frozen=True)
class Tokens:
    """What the encoder reads, and where each stands."""

    states: Float[Tensor, "batch tokens width"]
    positions: Float[Tensor, "tokens width"]


class ActPolicy(BasePolicy):
    """Built from its configuration alone, with random weights; parameter names are those of released checkpoints."""

    parts = {"backbone": ("backbone.",)}

    def __init__(self, config: ActConfig) -> None:
        super().__init__(config)
        width, has_state = config.hidden_size, config.state_history > 0
        self.backbone = ResNet(config.backbone, config.backbone_width, config.dilate_last)
        self.encoder = Encoder(config, config.num_encoder_layers)
        self.decoder = Decoder(config)
        if has_state:
            self.encoder_robot_state_input_proj = nn.Linear(config.state_dim, width)
        self.encoder_latent_input_proj = nn.Linear(config.latent_dim, width)
        self.encoder_img_feat_input_proj = nn.Conv2d(self.backbone.num_channels, width, 1)
        self.encoder_1d_feature_pos_embed = nn.Embedding(1 + has_state, width)
        self.decoder_pos_embed = nn.Embedding(config.action_horizon, width)
        self.action_head = nn.Linear(width, config.action_dim)
        if config.use_vae:
            self.vae_encoder = Encoder(config, config.num_vae_encoder_layers)
            self.vae_encoder_cls_embed = nn.Embedding(1, width)
            if has_state:
                self.vae_encoder_robot_state_input_proj = nn.Linear(config.state_dim, width)
            self.vae_encoder_action_input_proj = nn.Linear(config.action_dim, width)
            self.vae_encoder_latent_output_proj = nn.Linear(width, 2 * config.latent_dim)

    def pack_weights(self) -> None:
        self.requires_grad_(False)
        self.backbone.pack_weights()
        for layer in (*self.encoder.layers, *self.decoder.layers):
            layer.pack_weights()

    def check_request(self, request: ActRequest) -> None:
        super().check_request(request)
        config = self.config
        expected = [(*camera.size, 3) for camera in config.cameras]
        got = [image.shape for image in request.images]
        if got != expected or request.state.shape != (config.state_history, config.state_dim):
            sizes = f"request has images of {got} and a state of {request.state.shape}"
            wanted = f"{expected} and {(config.state_history, config.state_dim)}"
            raise ValueError(f"{sizes}; the policy expects {wanted}: give both nodes the same policy directory")

    def unpack(self, tensors: Mapping[str, Tensor], constants: Mapping[str, str]) -> ActInputs:
        return _inputs(tensors, len(self.config.cameras))

    def prepare(self) -> Float[Tensor, "1 horizon width"]:
        return self.decoder.start(self.decoder_pos_embed.weight)

    def sample(
        self, inputs: ActInputs, prepared: Tensor, on_stage: OnStage = tell_nobody
    ) -> Float[Tensor, "batch horizon action"]:
        latent = inputs.state.new_zeros(len(inputs.state), self.config.latent_dim)
        features = self.see(inputs.images)
        on_stage("backbone")
        actions = self.decode(self.encode(self.tokens(features, inputs.state, latent)), prepared)
        on_stage("transformer")
        return actions

    def see(self, images: tuple[Tensor, ...]) -> tuple[Float[Tensor, "batch width rows cols"], ...]:
        """Each camera's features; cameras of one size that follow each other are one batch."""
        seen: list[Tensor] = []
        pairs = zip(images, self.config.cameras, strict=True)
        for _, alike in groupby(pairs, lambda pair: pair[0].shape):
            pixels = [normalize(image, camera) for image, camera in alike]
            features = self.backbone(torch.cat(pixels).to(self.action_head.weight.dtype))
            seen += self.encoder_img_feat_input_proj(features).chunk(len(pixels))
        return tuple(seen)

    def tokens(self, features: tuple[Tensor, ...], state: Tensor, latent: Float[Tensor, "batch latent"]) -> Tokens:
        """The latent, the state where the policy sees one, then the places of each camera's features row by row."""
        dtype = self.action_head.weight.dtype
        single = [self.encoder_latent_input_proj(latent.to(dtype))[:, None]]
        if self.config.state_history:
            single.append(self.encoder_robot_state_input_proj(state.to(dtype)))
        width, device = self.config.hidden_size, state.device
        places = [image_positions(*image.shape[-2:], width, dtype, device) for image in features]
        states = torch.cat((*single, *(image.flatten(2).transpose(1, 2) for image in features)), dim=1)
        return Tokens(states, torch.cat((self.encoder_1d_feature_pos_embed.weight, *places)))

    def encode(self, tokens: Tokens) -> Tokens:
        """What the decoder reads."""
        return Tokens(self.encoder(tokens.states, tokens.positions), tokens.positions)

    def decode(self, memory: Tokens, started: Tensor) -> Float[Tensor, "batch horizon action"]:
        """Actions from what was encoded; ``started`` is what ``prepare`` gives."""
        queries = self.decoder_pos_embed.weight
        return self.action_head(self.decoder(started, queries, memory.states, memory.positions))

    def act(self, inputs: ActInputs, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch horizon action"]:
        """Actions with nothing prepared, layer by layer."""
        memory = self.encode(self.tokens(self.see(inputs.images), inputs.state, latent))
        return self.action_head(self.decoder.run(self.decoder_pos_embed.weight, memory.states, memory.positions))

    def draw(self, rngs: Sequence[np.random.Generator]) -> Float[Tensor, "batch latent"]:
        """The noise of the style variable; which values dropout leaves out each device draws itself."""
        return torch.from_numpy(np.stack([rng.standard_normal(self.config.latent_dim, np.float32) for rng in rngs]))

    def compute_loss(self, sample: ActInputs, draws: Float[Tensor, "batch latent"]) -> PolicyLoss:
        """How far actions are off, and with a VAE how far the style variable strays, weighed."""
        assert sample.actions is not None
        dtype, terms = self.action_head.weight.dtype, {}
        batch, horizon, _ = sample.actions.shape
        num_known = np.full(batch, horizon) if sample.num_known is None else sample.num_known
        rows, known = torch.arange(horizon), torch.from_numpy(num_known)
        is_known = (rows < known[:, None]).to(sample.actions.device)
        latent = sample.state.new_zeros(batch, self.config.latent_dim)
        if self.config.use_vae:
            style = self._style(sample.state.to(dtype), sample.actions.to(dtype), is_known)
            mean, log_variance = style.float().chunk(2, dim=-1)
            latent = mean + (log_variance / 2).exp() * draws.to(mean)
            strayed = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) * is_known.any(1)
            terms["kl"] = LossTerm(strayed.sum(), int((num_known > 0).sum()), self.config.kl_weight)
        error = (self.act(sample, latent).float() - sample.actions).abs() * is_known[..., None]
        num_values = int(num_known.sum()) * self.config.action_dim
        return PolicyLoss({"l1": LossTerm(error.sum(), num_values), **terms})

    def layers(self) -> tuple[Layer, ...]:
        encoders = ([self.vae_encoder] if self.config.use_vae else []) + [self.encoder]
        encoding = (Layer(layer, "forward") for encoder in encoders for layer in encoder.layers)
        return (*encoding, *(Layer(layer, "run") for layer in self.decoder.layers))

    def unpack_batch(self, batch: TrainingBatch, device: torch.device | str = "cpu") -> ActInputs:
        arrays = {**batch.policy_input, "state": batch.state, "actions": batch.actions}
        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        return replace(_inputs(tensors, len(self.config.cameras)), num_known=batch.num_known)

    def sample_batch(
        self, sample: ActInputs, rngs: Sequence[np.random.Generator]
    ) -> Float[Tensor, "batch horizon action"]:
        return self.act(sample, sample.state.new_zeros(len(sample.state), self.config.latent_dim))

    def _style(
        self, state: Tensor, actions: Tensor, is_known: Bool[Tensor, "batch horizon"]
    ) -> Float[Tensor, "batch two_latents"]:
        """Mean and logarithm of the variance of the style variable that ``actions`` show, as far as they are known."""
        parts = [self.vae_encoder_cls_embed.weight.expand(len(actions), -1, -1)]
        if self.config.state_history:
            parts.append(self.vae_encoder_robot_state_input_proj(state))
        x = torch.cat((*parts, self.vae_encoder_action_input_proj(actions)), dim=1)
        positions = sequence_positions(x.shape[1], x.shape[2], x.device).to(x.dtype)
        is_seen = F.pad(is_known, (x.shape[1] - is_known.shape[1], 0), value=True)
        return self.vae_encoder_latent_output_proj(self.vae_encoder(x, positions, is_seen)[:, 0])


def normalize(image: UInt8[Tensor, "batch h w 3"], camera: CameraInput) -> Float[Tensor, "batch 3 h w"]:
    """float32, in the order in which the pixels lie."""
    mean, std = _pixel_constants(camera.mean, camera.std, image.device)
    return ((image.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def _inputs(tensors: Mapping[str, Tensor], num_cameras: int) -> ActInputs:
    images = tuple(tensors[f"{IMAGE}{i}"] for i in range(num_cameras))
    return ActInputs(images, tensors["state"], tensors.get("actions"))


@constant
def _pixel_constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(mean).to(device), torch.tensor(std).to(device)
