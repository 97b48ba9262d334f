"""The backbones there are. A policy.yaml names one by its ``vlm_type``: looked up here, never imported from the
file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

PACKAGE = "vla_ros.policies.modules.vlm_bridge"


@dataclass(frozen=True)
class Backbone:
    """A folder of this package: ``processor.py`` (host, no torch) and ``bridge.py`` (device), and a class in each.

    ``size`` is the configuration of a policy that has this backbone. ``renamed`` are the modules that published weights
    call differently than transformers does now: (their beginning, ours).
    """

    folder: str
    processor: str
    bridge: str
    size: str
    renamed: tuple[tuple[str, str], ...] = ()

    def current_name(self, name: str) -> str:
        """Of a weight as it was published."""
        return next((now + name.removeprefix(then) for then, now in self.renamed if name.startswith(then)), name)

    def processor_class(self) -> Any:
        """Its ``VLMProcessor``; loads no torch."""
        return getattr(import_module(f"{PACKAGE}.{self.folder}.processor"), self.processor)

    def bridge_class(self) -> Any:
        """Its ``VLMBridge``; loads torch and transformers."""
        return getattr(import_module(f"{PACKAGE}.{self.folder}.bridge"), self.bridge)


BACKBONES = {
    "Qwen3VLForConditionalGeneration": Backbone("qwen", "QwenProcessor", "QwenBridge", "pi-qwen"),
    "PaliGemmaForConditionalGeneration": Backbone(
        "paligemma",
        "PaliGemmaProcessor",
        "PaliGemmaBridge",
        "pi-paligemma",
        renamed=(
            ("language_model.model.", "model.language_model."),
            ("language_model.lm_head.", "lm_head."),
            ("vision_tower.vision_model.", "model.vision_tower."),
            ("vision_tower.", "model.vision_tower."),
            ("model.vision_tower.vision_model.", "model.vision_tower."),
            ("multi_modal_projector.", "model.multi_modal_projector."),
        ),
    ),
    "SmolVLMForConditionalGeneration": Backbone("smolvlm", "SmolVLMProcessor", "SmolVLMBridge", "pi-smol"),
}
