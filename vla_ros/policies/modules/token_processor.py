"""What processors share that make tokens of instructions. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from vla_ros.policies.config import DataConfig, PolicyConfig
from vla_ros.policies.processor import PolicyProcessor, read_text
from vla_ros.strict import config_to_dict, parse_config, parse_json
from vla_ros.transforms.normalize import FieldStats
from vla_ros.transforms.tokenizer import read_tokenizer

TOKENIZER_FILE = "processor/tokenizer.json"
PROCESSOR_FILE = "processor/processor.json"


class TokenProcessor(PolicyProcessor):
    """Besides what any processor has, ``settings`` of its ``settings_type`` (``processor.json``) and the
    ``tokenizer``."""

    files = (TOKENIZER_FILE, PROCESSOR_FILE)
    settings_type: ClassVar[type]

    def __init__(
        self,
        config: PolicyConfig,
        data: DataConfig,
        settings: Any,
        tokenizer: Any,
        stats: Mapping[str, FieldStats],
        digest: str = "",
    ) -> None:
        super().__init__(config, data, stats, digest)
        self.settings: Any = settings
        self.tokenizer = tokenizer

    @classmethod
    def read(
        cls, policy_dir: Path, config: PolicyConfig, data: DataConfig, stats: Mapping[str, FieldStats], digest: str
    ) -> Self:
        document = read_text(policy_dir / PROCESSOR_FILE, PROCESSOR_FILE, parse_json)
        settings = parse_config(cls.settings_type, document, PROCESSOR_FILE)
        tokenizer = read_tokenizer(policy_dir / TOKENIZER_FILE, TOKENIZER_FILE)
        return cls(config, data, settings, tokenizer, stats, digest)

    @classmethod
    def for_training(
        cls, config: PolicyConfig, data: DataConfig, stats: Mapping[str, FieldStats], settings: Any, tokenizer: Any
    ) -> Self:
        return cls(config, data, settings, tokenizer, stats)

    def write(self, policy_dir: Path) -> None:
        (policy_dir / PROCESSOR_FILE).parent.mkdir(exist_ok=True)
        self.tokenizer.save(str(policy_dir / TOKENIZER_FILE))
        (policy_dir / PROCESSOR_FILE).write_text(json.dumps(config_to_dict(self.settings), indent=1) + "\n")
