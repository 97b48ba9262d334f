"""Strict reading of what somebody else wrote: its size and its shape are looked at before any work is done with it, and
configuration mappings become frozen dataclasses, where unknown, missing and mistyped keys are refused."""

from __future__ import annotations

import json
import math
import os
import pickletools
import re
import stat
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

Config = TypeVar("Config")
REQUIRED: Any = object()
"""The default of a field that a file must give, although one before it may be left out."""
MAX_QUOTED = 80
MAX_LISTED = 20
MAX_LINE = 2000
MAX_TEXT_BYTES = 4 << 20
MAX_NODES = 100_000  # of a YAML document, where an alias counts as what it stands for
MAX_DEPTH = 64
MAX_INT = 2**63 - 1
MAX_HEADER_BYTES = 8 << 20  # of safetensors: each of its tensors takes about a hundred
# What a file may unpack to: the same picture again and again is packed 200 to 1.
FREE_UNPACKED_BYTES, MAX_PACKING = 64 << 20, 1000
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


def check_regular(path: str | Path) -> None:
    """Before a library opens it: raises ValueError where ``path`` is there and is not a regular file."""
    kind = os.stat(path).st_mode
    if not stat.S_ISREG(kind):
        what = "a folder" if stat.S_ISDIR(kind) else "a pipe or a device"
        raise ValueError(f"it is {what}; expected a regular file")


def read_text(path: str | Path, max_bytes: int = MAX_TEXT_BYTES, errors: str = "strict") -> str:
    """A text file, UTF-8, where ``errors`` says what becomes of other bytes. Raises OSError as ``open`` does, and
    ValueError for one that is too large, is something else than a regular file, or isn't UTF-8."""
    check_regular(path)
    with open(path, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"it has more than {max_bytes} bytes, the most that is read")
    try:
        return data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text: {error.reason} at byte {error.start}; save it as UTF-8") from error


def parse_yaml(text: str) -> Any:
    """What a YAML document says.

    Raises ValueError, in one line, for what isn't YAML, and for one that nests too deeply, stands for too much by its
    aliases, has a key twice in a mapping or a number beyond 64 bits.
    """
    try:
        _check_events(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _measure(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(one_line(error)) from error
    except Exception as error:  # whatever values raise that don't fit their tags
        raise ValueError(f"a value doesn't fit its tag ({type(error).__name__})") from error


def parse_json(text: str | bytes) -> Any:
    """What a JSON document says.

    Raises ValueError, in one line, for what isn't JSON, and for one that nests too deeply, has a key twice in an object
    or a whole number beyond 64 bits.
    """
    text = text if isinstance(text, str) else text.decode(errors="replace")
    parse_int = _whole if _LONG_NUMBER.search(text) else None
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_int=parse_int)
    except RecursionError as error:
        raise ValueError(f"it nests more than {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise ValueError(one_line(error)) from error
    level: list[Any] = [[document]]
    for _ in range(MAX_DEPTH + 1):
        inner = (item for items in level for item in (items.values() if isinstance(items, dict) else items))
        level = [item for item in inner if isinstance(item, dict | list)]
    if level:
        raise ValueError(f"it nests more than {MAX_DEPTH} levels")
    return document


def leaves(document: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every value of a document that is neither a mapping nor a list, with its dotted place."""
    if not isinstance(document, Mapping | list | tuple):
        yield where, document
        return
    for key, item in document.items() if isinstance(document, Mapping) else enumerate(document):
        yield from leaves(item, f"{where}.{key}" if where else str(key))


_FLOAT8 = re.compile(rb'"dtype"\s*:\s*"(F8[A-Z0-9_]*)"')


def check_safetensors(path: str | Path) -> None:
    """Before the library reads it: raises ValueError, or OSError, for a header that is cut off or no policy's."""
    check_regular(path)
    with open(path, "rb") as file:
        num_bytes = int.from_bytes(file.read(8), "little")
        if num_bytes > min(MAX_HEADER_BYTES, os.path.getsize(path)):
            expected = f"expected at most {MAX_HEADER_BYTES}, all within the file"
            raise ValueError(f"its header has {num_bytes} bytes; {expected}")
        found = _FLOAT8.search(file.read(num_bytes))
    if found:
        raise ValueError(f"it has tensors of type {found[1].decode()}; expected F32, F16 or BF16")


def check_pickle(program: bytes) -> None:
    """Raises ValueError for a pickle that stands for more than it holds: tuples of a tuple that is there twice, which
    would be hashed for ever as a key, far places in memory, and bytes that aren't there."""
    num_kept, tuples, last = 0, set(), ""
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name.endswith(("PUT", "MEMOIZE")):
            place = num_kept if argument is None else argument
            num_kept += 1
            tuples |= {place} if last.startswith("TUPLE") else set()
            if place > MAX_NODES:
                raise ValueError(f"it keeps more than {MAX_NODES} values")
        elif opcode.name in ("DUP", "BYTEARRAY8") or (opcode.name.endswith("GET") and argument in tuples):
            raise ValueError("a tuple is used twice, or bytes may change; expected what numpy or torch save")
        last = opcode.name


def max_unpacked_bytes(num_packed: int) -> int:
    """How many bytes so many compressed ones may stand for."""
    return FREE_UNPACKED_BYTES + MAX_PACKING * num_packed


def check_count(what: str, kind: str, items: Sized, limit: int) -> None:
    """Raises ValueError where ``what`` (a trajectory, say) has more than ``limit`` of a ``kind`` (points)."""
    if len(items) > limit:
        raise ValueError(f"{what} has {len(items)} {kind}; expected at most {limit}")


def check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    """Raises ValueError for a ``value`` that isn't one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{what} is '{quoted(value)}'; expected one of {', '.join(choices)}")


def check_range(where: str, config: Any, low: float, high: float, *names: str) -> None:
    """Raises ValueError for the first of these fields of ``config`` that lies outside."""
    for name in names:
        value = getattr(config, name)
        if not low <= value <= high:
            raise ValueError(f"{where}{name} is {value}; expected at least {low} and at most {high}")


@contextmanager
def explained(before: str, *kinds: type[Exception], after: str = "") -> Iterator[None]:
    """Inside its ``with``, an error of ``kinds`` (else a ValueError) becomes a ValueError in one line: ``before``, what
    it says (of an OSError the reason, for ``before`` names the file), ``after``."""
    try:
        yield
    except kinds or (ValueError,) as error:  # noqa: B030
        raise ValueError(f"{before}{one_line(getattr(error, 'strerror', None) or error)}{after}") from error


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


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Builds nothing but plain values."""


def _construct_int(loader: Any, node: yaml.ScalarNode) -> int:
    return _whole(loader.construct_yaml_int(_plain(node)) if len(node.value) < MAX_QUOTED else node.value)


def _construct_float(loader: Any, node: yaml.ScalarNode) -> float:
    return float(loader.construct_yaml_float(_plain(node)))


def _plain(node: yaml.ScalarNode) -> yaml.ScalarNode:
    """YAML 1.1 reads 1:30 as 90 and 010 as 8, which nobody means who writes it."""
    if ":" in node.value or _LEADING_ZERO.match(node.value):
        raise ValueError(f"number {quoted(node.value)} begins with 0 or has a colon; expected a plain decimal number")
    return node


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]*[1-9][0-9_]*$")
_LONG_NUMBER = re.compile(r"\d{19}")


def _whole(value: int | str) -> int:
    if (isinstance(value, str) and len(value) > 20) or abs(int(value)) > MAX_INT:
        raise ValueError(f"number {quoted(str(value))} is beyond 64 bits")
    return int(value)


def _check_events(text: str) -> None:
    """How large a document is and how deep it nests, before anything recurses into it."""
    num, depth = 0, 0
    for event in yaml.parse(text, Loader=_Loader):
        num += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if num > MAX_NODES or depth > MAX_DEPTH:
            raise ValueError(f"it has more than {MAX_NODES} values or {MAX_DEPTH} levels")


def _measure(node: yaml.Node, seen: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many nodes a node stands for, and how deep they nest; ``seen`` are those known, (0, 0) one that is not done
    yet."""
    known = seen.get(id(node))
    if known == (0, 0):
        raise ValueError("an alias stands for itself")
    if known is not None:
        return known
    seen[id(node)] = (0, 0)
    children = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
        _check_keys([key for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
    num, depth = 1, 1
    for child in children:
        of_child = _measure(child, seen)
        num, depth = num + of_child[0], max(depth, 1 + of_child[1])
        if num > MAX_NODES or depth > MAX_DEPTH:
            raise ValueError(f"its aliases stand for more than {MAX_NODES} values or {MAX_DEPTH} levels")
    seen[id(node)] = num, depth
    return num, depth


def _check_keys(keys: Sequence[yaml.ScalarNode]) -> None:
    first: dict[tuple[str, str], yaml.ScalarNode] = {}
    for key in keys:
        other = first.setdefault((key.tag, key.value), key)
        if other is not key:
            places = sorted({str(mark.line + 1) for mark in (other.start_mark, key.start_mark)}, key=int)
            where = f"line{'s' * (len(places) > 1)} {' and '.join(places)}"
            raise ValueError(f"key '{quoted(key.value)}' is given twice, in {where}; remove one")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"key '{quoted(repeated)}' is given twice; remove one")
    return document


def _unknown(kind: Any, document: Mapping[Any, Any]) -> list[str]:
    return sorted(str(key) for key in document if key not in {field.name for field in fields(kind)})


def _missing(kind: Any, document: Any, where: str) -> Iterator[str]:
    """A line for each mapping that lacks keys, nested ones too; an unknown key may be one of them misspelled, and what
    isn't a mapping is refused later."""
    if not isinstance(document, Mapping) or _unknown(kind, document):
        return
    required = [f.name for f in fields(kind) if f.default in (MISSING, REQUIRED) and f.default_factory is MISSING]
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
    if origin is not None:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {quoted(repr(value))}; expected a mapping of keys to values")
        item_hint = get_args(hint)[1]
        if item_hint is Any:  # checked by whoever reads it
            return dict(value)
        return {_value(str, key, f"a key of {where}"): _value(item_hint, value[key], f"{where}.{key}") for key in value}
    if type(value) is int and abs(value) > MAX_INT:
        raise ValueError(f"{where} is {quoted(hex(value))}; expected a number of at most 64 bits")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, str) and not value.isprintable():
        raise ValueError(f"{where} is '{quoted(value)}'; expected text without control characters or line ends")
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise ValueError(f"{where} is {quoted(repr(value))}; expected {_NAMES.get(hint, hint.__name__)}")
    return value
