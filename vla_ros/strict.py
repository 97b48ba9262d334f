"""Strict reading of configuration mappings into frozen dataclasses: unknown, missing and mistyped keys are refused."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")
MAX_QUOTED = 80
MAX_LISTED = 20
MAX_LINE = 2000
_NAMES = {float: "a finite number", int: "a whole number", str: "a string", bool: "true or false"}


def parse_config(kind: type[Config], document: Any, where: str) -> Config:
    """One frozen dataclass from a mapping, nested ones too; ``where`` names the place in error messages.

    A nested one that was read already, because it is one of several classes, stays.

    Raises ValueError for an unknown key, a missing one, or a value of another type.
    """
    if not isinstance(document, Mapping):
        raise ValueError(f"{where} is {type(document).__name__}; expected a mapping of keys to values")
    hints = get_type_hints(kind)
    unknown = _unknown(kind, document)
    if unknown:
        known = ", ".join(field.name for field in fields(kind))  # type: ignore[arg-type]
        raise ValueError(f"{where}: unknown key '{one_line(unknown[0], MAX_QUOTED)}'; known keys are {known}")
    missing = list(_missing(kind, document, where))
    if missing:
        raise ValueError("; ".join(missing))
    return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in document.items()})


@contextmanager
def explained(before: str, *kinds: type[Exception], after: str = "") -> Iterator[None]:
    """Inside its ``with``, an error of ``kinds`` (else a ValueError) becomes a ValueError in one line: ``before``, what
    it says, ``after``."""
    try:
        yield
    except kinds or (ValueError,) as error:  # noqa: B030
        raise ValueError(f"{before}{one_line(error)}{after}") from error


def one_line(error: Exception | str, num_characters: int = MAX_LINE) -> str:
    """What an error says, in one line of at most so many characters, control characters escaped."""
    return quoted(" ".join(str(error).split()), num_characters)


def quoted(text: str, num_characters: int = MAX_QUOTED) -> str:
    """What somebody else wrote, to be printed in one line: control characters and line ends escaped, cut to a bound."""
    shown = text[:num_characters] + "…" * (len(text) > num_characters)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def listed(names: Sequence[str], nothing: str = "none") -> str:
    """Names somebody else wrote, to be printed in one line; ``nothing`` where there is none."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return (", ".join(map(quoted, names[:MAX_LISTED])) or nothing) + more


def config_to_dict(config: Any) -> Any:
    """The inverse of ``parse_config``: plain mappings, lists and scalars, for YAML or JSON."""
    if is_dataclass(config):
        return {field.name: config_to_dict(getattr(config, field.name)) for field in fields(config)}
    if isinstance(config, Mapping):
        return {key: config_to_dict(value) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [config_to_dict(value) for value in config]
    return config


def _unknown(kind: Any, document: Mapping[Any, Any]) -> list[str]:
    return sorted(str(key) for key in document if key not in {field.name for field in fields(kind)})


def _missing(kind: Any, document: Any, where: str) -> Iterator[str]:
    """A line for each mapping that lacks keys, nested ones too; an unknown key may be one of them misspelled, and what
    isn't a mapping is refused later."""
    if not isinstance(document, Mapping) or _unknown(kind, document):
        return
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    names = [f"'{name}'" for name in required if name not in document]
    if names:
        key, are = ("key", "is") if len(names) == 1 else ("keys", "are")
        yield f"{where}: {key} {', '.join(names)} {are} missing"
    hints = get_type_hints(kind)
    for name in (field.name for field in fields(kind) if field.name in document):
        value, inner, is_list = document[name], hints[name], get_origin(hints[name]) is tuple
        inner = get_args(inner)[0] if is_list else inner
        if is_dataclass(inner):
            items = enumerate(value) if is_list and isinstance(value, list | tuple) else [(-1, value)]
            for index, item in items:
                yield from _missing(inner, item, f"{where}.{name}" + (f"[{index}]" if is_list else ""))


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
            raise ValueError(f"{where} is {quoted(repr(value))}; expected a list")
        return tuple(_value(get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None:  # Mapping[str, Any]: checked by whoever reads it
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {quoted(repr(value))}; expected a mapping of keys to values")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise ValueError(f"{where} is {quoted(repr(value))}; expected {_NAMES.get(hint, hint.__name__)}")
    return value
