"""Mutations of a file: bytes flipped, cut, moved and repeated, numbers made extreme, structures made deep."""

from __future__ import annotations

import io
import random
import re
import struct
import zipfile
from collections.abc import Callable

from vla_ros.bags.compression import zstd

LITERAL = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
VALUE = re.compile(rb'"[^"\n]*"|\[[^\[\]]*\]|\b(?:true|false|null)\b')
WORD = re.compile(rb"[A-Za-z_][\w.]*")
NUMBERS = (b"0", b"-1", b"1e999", b"-1e400", b".nan", b"NaN", b"1" + b"0" * 400, b"9" * 5000, b"1099511627776")
NUMBERS += (b"2147483648", b"9223372036854775808", b"1000000000000", b"1e-320", b"0x7fffffffffff")
NUMBERS += (b"null", b"true", b"[]", b"{}", b'"a"')
WORDS = (b"\x1b[31m", b"\\n\\u001b[2J", b"&#10;&#27;", b"a" * 100_000, b"\xff\xfe", b"")
WORDS += (b"<<", b"&a [*a]", b"*a", b"!!python/none")
BINARY = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
DEPTHS = (3, 60, 2000, 100_000)
OPENINGS = ((b"[", b"]"), (b'{"a":', b"}"), (b"- ", b""), (b"<a>", b"</a>"), (b"${a:", b"}"), (b"(", b")"))

Mutation = Callable[[bytes, random.Random], bytes]


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 32))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def delete(data: bytes, rng: random.Random) -> bytes:
    start, length = _slice(data, rng)
    return data[:start] + data[start + length :]


def duplicate(data: bytes, rng: random.Random) -> bytes:
    start, length = _slice(data, rng)
    return data[: start + length] + data[start : start + length] * rng.choice((1, 1, 3, 50)) + data[start + length :]


def splice(data: bytes, rng: random.Random) -> bytes:
    (start, length), place = _slice(data, rng), rng.randrange(len(data))
    part = data[start : start + length]
    return data[:place] + part + data[place + (length if rng.random() < 0.5 else 0) :]


def extreme_literal(data: bytes, rng: random.Random) -> bytes:
    return _replace(data, LITERAL, rng, rng.choice(NUMBERS))


def retype(data: bytes, rng: random.Random) -> bytes:
    """Something else in the place of a text, a list or a truth value."""
    return _replace(data, VALUE, rng, rng.choice(NUMBERS))


def extreme_word(data: bytes, rng: random.Random) -> bytes:
    return _replace(data, WORD, rng, rng.choice(WORDS))


def extreme_binary(data: bytes, rng: random.Random) -> bytes:
    size = rng.choice("BHIQ")
    value = rng.choice(BINARY) & ((1 << 8 * struct.calcsize(size)) - 1)
    changed, packed = bytearray(data), struct.pack(f"{rng.choice('<>')}{size}", value)
    place = rng.randrange(len(data))
    changed[place : place + len(packed)] = packed
    return bytes(changed)


def nest(data: bytes, rng: random.Random) -> bytes:
    depth, (opening, closing) = rng.choice(DEPTHS), rng.choice(OPENINGS)
    return _replace(data, rng.choice((LITERAL, WORD)), rng, opening * depth + b"1" + closing * depth)


MUTATIONS: tuple[Mutation, ...] = (
    *(flip, truncate, delete, duplicate, splice),
    *(extreme_literal, extreme_literal, retype, extreme_word, extreme_binary, extreme_binary, nest),
)


def mutate(data: bytes, rng: random.Random, form: str) -> bytes:
    """A mutation, or a few, of ``data``; of a ``zip`` or ``zstd`` form, often of what is in it."""
    if form == "zip" and rng.random() < 0.8:
        return _in_zip(data, rng)
    if form == "zstd" and rng.random() < 0.6:
        return zstd.compress(mutate(zstd.decompress(data), rng, ""))
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        data = rng.choice(MUTATIONS)(data or b"0", rng)
    return data


def _in_zip(data: bytes, rng: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    chosen = rng.choice([i for i, (info, _) in enumerate(members) if info.filename.endswith((".pkl", ".npy"))])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i, (info, content) in enumerate(members):
            archive.writestr(info, mutate(content, rng, "") if i == chosen else content)
    return buffer.getvalue()


def _replace(data: bytes, pattern: re.Pattern[bytes], rng: random.Random, new: bytes) -> bytes:
    found = list(pattern.finditer(data))
    if not found:
        return new
    match = rng.choice(found)
    return data[: match.start()] + new + data[match.end() :]


def _slice(data: bytes, rng: random.Random) -> tuple[int, int]:
    return rng.randrange(len(data)), rng.choice((1, 4, 16, 100, 1000))
