"""Configuration of a served policy: where its server is, and the dictionary that it wants. Imports no torch."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from vla_ros.policies.modules.elsewhere import MAX_SIDE, MAX_SIZE, ElsewhereConfig
from vla_ros.share import share_dir
from vla_ros.strict import check_choice, check_range, explained, listed, parse_config, parse_yaml, quoted, read_text

PRESETS = "config/served"
LAYOUTS = ("hwc", "chw")
SCHEMES = {"ws": 80, "wss": 443}
MAX_WAIT_S = 600.0
TYPE = "ServedPolicy"


@dataclass(frozen=True)
class PictureKey:
    """Where the picture of a camera's ``slot`` goes in the dictionary: names, each inside the one before."""

    slot: str
    key: tuple[str, ...]


@dataclass(frozen=True)
class StateKey:
    """Where the next ``size`` numbers of the state go; 0 in one of them: what the others leave."""

    key: tuple[str, ...]
    size: int = 0


@dataclass(frozen=True)
class RequestKeys:
    """The dictionary that a server wants. Pictures are uint8, with axes in the order of ``layout``, resized to
    ``image_size`` (height, width) as openpi's clients do it: what is left on both sides is black. With 0, 0 they stay
    as they come."""

    pictures: tuple[PictureKey, ...]
    state: tuple[StateKey, ...] = ()
    prompt: tuple[str, ...] = ("prompt",)
    image_size: tuple[int, ...] = (224, 224)
    layout: str = "hwc"

    def __post_init__(self) -> None:
        check_choice("layout", self.layout, LAYOUTS)
        if len(self.image_size) != 2 or not all(0 <= side <= MAX_SIDE for side in self.image_size):
            raise ValueError(f"image_size is {list(self.image_size)}; expected height and width in pixels")
        if (self.image_size[0] == 0) != (self.image_size[1] == 0):
            raise ValueError(f"image_size is {list(self.image_size)}; expected two sides, or 0, 0 for what comes")
        if not self.pictures:
            raise ValueError("pictures is empty; expected at least one, with its slot and its key")
        paths = [*(each.key for each in self.pictures), *(each.key for each in self.state), self.prompt]
        for i, path in enumerate(paths):
            if not path or not all(path):
                raise ValueError(f"a key is {list(path)}; expected names, each inside the one before")
            if any(other[: len(path)] == path for other in paths[:i] + paths[i + 1 :]):
                raise ValueError(f"key {list(path)} is given twice, or others lie in it; give each value its own")
        slots = [each.slot for each in self.pictures]
        if len(set(slots)) < len(slots):
            raise ValueError(f"pictures has slots {listed(slots)}; expected each once")
        sizes = [each.size for each in self.state]
        if not all(0 <= size <= MAX_SIZE for size in sizes) or sizes.count(0) > 1:
            raise ValueError(f"state has sizes {sizes}; expected above 0, or 0 in one for what the others leave")


@dataclass(frozen=True)
class ServedConfig(ElsewhereConfig):
    """The ``policy:`` group of a policy.yaml.

    ``url`` is the server's, ``ws://`` or ``wss://``, whose certificate is verified by the system's authorities or those
    in ``ca_file``. ``api_key_file`` names the file with the key it asks for; the key itself stays there. An answer is
    waited for ``answer_timeout_s``, the first of a connection, before which a server may have to compile,
    ``first_timeout_s``. ``action_tolerance`` is, for each number of an action, how far an answer to the golden case may
    lie from those at import.
    """

    computed_by: ClassVar[str] = "a server"
    pictures_key: ClassVar[str] = "policy.keys.pictures"
    type: str
    url: str
    keys: RequestKeys
    action_horizon: int
    action_dim: int
    state_dim: int
    action_tolerance: tuple[float, ...]
    state_history: int = 1
    api_key_file: str = ""
    ca_file: str = ""
    answer_timeout_s: float = 2.0
    first_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        check_url(self.url, "policy.url")
        self.check_sizes()
        check_range("policy.", self, 0.01, MAX_WAIT_S, "answer_timeout_s", "first_timeout_s")
        if len(self.action_tolerance) != self.action_dim or not all(each >= 0 for each in self.action_tolerance):
            got = f"policy.action_tolerance has {len(self.action_tolerance)} numbers"
            raise ValueError(f"{got}; expected one of at least 0 for each of the action's {self.action_dim}")
        sizes = [each.size for each in self.keys.state]
        if bool(sizes) != bool(self.state_history) or (sizes and (0 in sizes or sum(sizes) != self.state_dim)):
            got = f"policy.keys.state has sizes {sizes} and state_history is {self.state_history}"
            raise ValueError(f"{got}; expected sizes that make state_dim, {self.state_dim}, or none and 0")

    @property
    def picture_sizes(self) -> dict[str, tuple[int, int]]:
        height, width = self.keys.image_size
        return {each.slot: (height, width) for each in self.keys.pictures}

    @property
    def waits_for(self) -> str:
        return f"the server at {self.url}"

    @property
    def notes(self) -> tuple[str, ...]:
        line = url_warning(self.url, bool(self.api_key_file))
        return (line,) if line else ()


def check_url(url: str, where: str) -> None:
    """Raises ValueError for what isn't a server's address, or holds more than that: it is shown to everybody."""
    expected = "expected ws://host:port or wss://host[:port][/path]"
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError as error:
        raise ValueError(f"{where} is not an address ({error}); {expected}") from error
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{where} holds a password, a query or a fragment; {expected}: a key is read from a file")
    if parts.scheme not in SCHEMES or not parts.hostname or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{where} is '{quoted(url)}'; {expected}")


def url_warning(url: str, has_key: bool) -> str:
    """A line where what is sent can be read and changed on the way; empty where it stays on this machine or is
    encrypted."""
    parts = urlsplit(url)
    if parts.scheme == "wss" or _is_loopback(parts.hostname or ""):
        return ""
    what = "pictures, actions and the key" if has_key else "pictures and actions"
    return f"{url}: {what} go over the network in the clear, and whoever is on it can change them; use wss://"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def presets() -> tuple[str, ...]:
    """The names of the packaged dictionaries."""
    return tuple(sorted(path.stem for path in (share_dir() / PRESETS).glob("*.yaml")))


def read_keys(name: str | None) -> RequestKeys:
    """A dictionary's keys by the path of their file, or packaged ones by their name. Raises ValueError where there are
    none, or for what such a file can't say."""
    known = f"one of {listed(presets())}"
    if name is None:
        raise ValueError(f"which dictionary does the server want? say it with --keys, {known} or a file")
    path = Path(name).expanduser()
    path = path if path.is_file() else share_dir() / PRESETS / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"--keys {quoted(name)} is neither a file nor {known}")
    with explained(f"{path}: ", OSError, ValueError):
        return parse_config(RequestKeys, parse_yaml(read_text(path)), "keys")
