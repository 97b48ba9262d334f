"""A vision-language model as it is published, without a policy: a folder of transformers, or on the hub. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tokenizers import Tokenizer

from vla_ros.policies.config import CONFIG_FILE as POLICY_FILE
from vla_ros.policies.importing import hub
from vla_ros.policies.importing.lerobot import read_object
from vla_ros.policies.importing.source import HUB_PREFIX, parse_hub_source
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.strict import listed, quoted
from vla_ros.transforms.tokenizer import read_tokenizer

CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE = "config.json", "tokenizer.json", "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
IMAGE_CONFIG_FILE = "preprocessor_config.json"
MAX_NAME = 200  # no file has a longer one
SMALL_FILES = (CONFIG_FILE, TOKENIZER_FILE, IMAGE_CONFIG_FILE, INDEX_FILE)


@dataclass(frozen=True)
class PublishedBackbone:
    """``kind`` is its class in transformers, one of ``BACKBONES``, ``config`` its config.json, ``weights`` are the
    files that hold them."""

    folder: Path
    kind: str
    config: Mapping[str, Any]
    weights: tuple[Path, ...]

    @property
    def image_config(self) -> Path | None:
        """The settings of its image processor, where it comes with them."""
        path = self.folder / IMAGE_CONFIG_FILE
        return path if path.is_file() else None

    def tokenizer(self) -> Tokenizer:
        """A new one; raises ValueError where the file is damaged."""
        path = self.folder / TOKENIZER_FILE
        return read_tokenizer(path, str(path))


def find_backbone(source: str) -> PublishedBackbone | None:
    """That of a folder, or of ``hf:org/repo[/subpath][@revision]``, whose files come into the Hugging Face cache; None
    for a folder that is something else.

    Raises ValueError for a model that no policy here has for a backbone, where a file of it is missing, and for a
    repository of the hub that is no published model.
    """
    is_on_hub = source.startswith(HUB_PREFIX)
    folder = _download(source, SMALL_FILES) if is_on_hub else Path(source).expanduser()
    config = _read_config(folder)
    if config is None and is_on_hub:
        fix = "a policy is made a policy directory first, with vla_ros import"
        raise ValueError(f"{source} is no published model: {CONFIG_FILE} has model_type and architectures; {fix}")
    if config is None:
        return None
    kinds = config["architectures"]
    kind = next((kind for kind in kinds if kind in BACKBONES), None)
    if kind is None:
        got = f"{source} is a {quoted(str(kinds[0])) if kinds else 'model without a name'} of transformers"
        raise ValueError(f"{got}; expected one of {', '.join(BACKBONES)}")
    weights = _weights(folder)
    if is_on_hub:
        _download(source, tuple(path.name for path in weights))
    for path in (folder / TOKENIZER_FILE, *weights):
        if not path.is_file():
            raise ValueError(f"{path} is missing; a published backbone has it beside its {CONFIG_FILE}: download it")
    return PublishedBackbone(folder, kind, config, weights)


def _read_config(folder: Path) -> Mapping[str, Any] | None:
    """A model's of transformers; None for a folder of something else, a policy directory among them."""
    if not (folder / CONFIG_FILE).is_file() or (folder / POLICY_FILE).is_file():
        return None
    config = read_object(folder / CONFIG_FILE)
    is_model = isinstance(config.get("model_type"), str) and isinstance(config.get("architectures"), list)
    return config if is_model else None


def _weights(folder: Path) -> tuple[Path, ...]:
    if not (folder / INDEX_FILE).is_file():
        return (folder / WEIGHTS_FILE,)
    files = read_object(folder / INDEX_FILE).get("weight_map")
    names = sorted({str(name) for name in files.values()}) if isinstance(files, dict) else []
    if not names or not all(map(_is_file_name, names)):
        raise ValueError(f"{folder / INDEX_FILE}: weight_map names {listed(names)}; expected files beside it")
    return tuple(folder / name for name in names)


def _is_file_name(text: str) -> bool:
    return PurePosixPath(text).name == text and len(text) <= MAX_NAME and text.isprintable()


def _download(source: str, names: tuple[str, ...]) -> Path:
    """The folder with those of ``names`` that there are."""
    found = parse_hub_source(source)
    revision = hub.look_up(found.repo, found.revision)
    paths = [str(found.subpath / name) for name in names]
    there = [path for path in paths if path in revision.files]
    if not there:
        raise ValueError(f"{source} has none of {', '.join(names)}; give the folder that has them")
    return hub.fetch_files(revision, there) / found.subpath
