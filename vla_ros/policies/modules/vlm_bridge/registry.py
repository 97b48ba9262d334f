"""The backbones there are. A policy.yaml names one by its ``vlm_type``: looked up here, never imported from the
file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

PACKAGE = "vla_ros.policies.modules.vlm_bridge"


@dataclass(frozen=True)
class Backbone:
    """A folder of this package: ``processor.py`` (host, no torch) and ``bridge.py`` (device), and a class in each."""

    folder: str
    processor: str
    bridge: str

    def processor_class(self) -> Any:
        """Its ``VLMProcessor``; loads no torch."""
        return getattr(import_module(f"{PACKAGE}.{self.folder}.processor"), self.processor)

    def bridge_class(self) -> Any:
        """Its ``VLMBridge``; loads torch and transformers."""
        return getattr(import_module(f"{PACKAGE}.{self.folder}.bridge"), self.bridge)


BACKBONES = {
    "Qwen3VLForConditionalGeneration": Backbone("qwen", "QwenProcessor", "QwenBridge"),
    "PaliGemmaForConditionalGeneration": Backbone("paligemma", "PaliGemmaProcessor", "PaliGemmaBridge"),
    "SmolVLMForConditionalGeneration": Backbone("smolvlm", "SmolVLMProcessor", "SmolVLMBridge"),
}
