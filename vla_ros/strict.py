"""Strict reading of configuration mappings into frozen dataclasses: unknown, missing and mistyped keys are refused."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")
_NAMES = {float: "a finite number", int: "a whole number", str: "a text", bool: "true or false"}


def parse_config(kind: type[Config], document: Any, where: str) -> Config:
    """One frozen dataclass from a mapping, nested ones too; ``where`` names the place in error messages.

    A nested one that was read already, because it is one of several classes, stays.

    Raises ValueError for an unknown key, a missing one, or a value of another type.
    """
    if not isinstance(document, Mapping):
        raise ValueError(f"{where} is {type(document).__name__}; expected a mapping of keys to values")
    hints = get_type_hints(kind)
    declared = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(str(key) for key in document if key not in declared)
    if unknown:
        raise ValueError(f"{where}: unknown key '{unknown[0]}'; known keys are {', '.join(declared)}")
    for name, field in declared.items():
        if name not in document and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{where}: key '{name}' is missing")
    return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in document.items()})


def config_to_dict(config: Any) -> Any:
    """The inverse of ``parse_config``: plain mappings, lists and scalars, for YAML or JSON."""
    if is_dataclass(config):
        return {field.name: config_to_dict(getattr(config, field.name)) for field in fields(config)}
    if isinstance(config, Mapping):
        return {key: config_to_dict(value) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [config_to_dict(value) for value in config]
    return config


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if is_dataclass(value) and isinstance(hint, type) and isinstance(value, hint):
        return value
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        return None if value is None else _value(options[0], value, where)
    if is_dataclass(hint):
        return parse_config(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where} is {value!r}; expected a list")
        return tuple(_value(get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None:  # Mapping[str, Any]: checked by whoever reads it
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r}; expected a mapping of keys to values")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise ValueError(f"{where} is {value!r}; expected {_NAMES.get(hint, hint.__name__)}")
    return value
