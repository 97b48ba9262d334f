"""Who may look at the operator's page and who may act: addresses, origins, tokens."""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from vla_ros.strict import check_regular, explained, quoted, read_text

MIN_TOKEN_CHARACTERS = 16
MAX_WRONG, MAX_WRONG_IN_ALL = 5, 50
WRONG_WINDOW_S = 60.0
MAX_ADDRESSES = 1000
READ_ONLY = "read-only"


@dataclass(frozen=True)
class Grant:
    """Who somebody is, for the log, and whether they may do more than look and stop."""

    name: str
    may_act: bool


@dataclass(frozen=True)
class Access:
    """What the page demands of whoever comes: one of ``tokens`` where there are any, else to be on this machine.

    ``is_read_only``: nobody may act. ``wrong`` remembers failed attempts.
    """

    tokens: tuple[tuple[bytes, Grant], ...] = ()
    is_read_only: bool = False
    wrong: WrongTokens = field(default_factory=lambda: WrongTokens())

    @property
    def needs_token(self) -> bool:
        return bool(self.tokens)

    def grant(self, address: str, token: str) -> Grant:
        """What ``token`` gives somebody at ``address``. Raises ValueError, which never holds the token, for a wrong
        one and for too many of them."""
        if not self.tokens:
            return Grant("operator", not self.is_read_only)
        self.wrong.check(address)
        given, found = token.encode(errors="replace"), None
        for known, grant in self.tokens:  # all of them, whichever it is: the time taken tells nothing
            if hmac.compare_digest(known, given):
                found = grant
        if found is None:
            self.wrong.add(address)
            raise ValueError("wrong token; expected one of the page's token file")
        return Grant(found.name, found.may_act and not self.is_read_only)

    def refuse_request(self, host: str, origin: str | None) -> str:
        """Why a request with these headers is refused, in one line; empty where it isn't.

        A browser says which page a connection comes from: only this server's own may. Without tokens only names of
        this machine are answered to, or a foreign page could have its name lead here.
        """
        if origin is not None and (not host or _authority(origin) != host.casefold()):
            return f"origin is '{quoted(origin)}'; expected this page's own, 'http://{quoted(host)}'"
        if not self.needs_token and not is_loopback(_hostname(host)):
            return f"host is '{quoted(host)}'; expected localhost where there is no token"
        return ""


class WrongTokens:
    """Attempts with a wrong token in the last ``WRONG_WINDOW_S``, by address and of all; ``now_s`` is a clock."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._by_address: dict[str, deque[float]] = {}
        self._all: deque[float] = deque(maxlen=MAX_WRONG_IN_ALL)

    def check(self, address: str) -> None:
        """Raises ValueError where no further attempt is looked at."""
        since_s = self._now_s() - WRONG_WINDOW_S
        own = self._by_address.get(address, ())
        for attempts, most in ((own, MAX_WRONG), (self._all, MAX_WRONG_IN_ALL)):
            if sum(at_s > since_s for at_s in attempts) >= most:
                raise ValueError(f"too many wrong tokens; try again after {WRONG_WINDOW_S:g} s")

    def add(self, address: str) -> None:
        if address not in self._by_address and len(self._by_address) >= MAX_ADDRESSES:
            del self._by_address[next(iter(self._by_address))]
        self._by_address.setdefault(address, deque(maxlen=MAX_WRONG)).append(self._now_s())
        self._all.append(self._now_s())


def make_access(address: str, token_file: str, is_read_only: bool) -> Access:
    """What a page on ``address`` demands. Raises ValueError for an address that other machines reach and no token, and
    for a token file that can't be used."""
    tokens = read_tokens(Path(token_file)) if token_file else ()
    if not tokens and not is_loopback(address):
        raise ValueError(
            f"address is '{quoted(address)}', which other machines reach, and there is no token; give a token file, or "
            "keep 127.0.0.1 and come through a tunnel: ssh -L 8080:localhost:8080 ROBOT"
        )
    return Access(tokens, is_read_only)


def read_tokens(path: Path) -> tuple[tuple[bytes, Grant], ...]:
    """A token file's lines: a name, its token, and ``read-only`` for who only looks. Raises ValueError, which never
    holds a token, for a file that others may read and a line that is none."""
    with explained(f"token file {path}: "), explained("", OSError):
        check_regular(path)
        mode = path.stat().st_mode
        if mode & 0o077:
            raise ValueError(f"its mode is {mode & 0o777:o}; expected 600: others could read it: chmod 600 {path}")
        lines = [line.split() for line in read_text(path).splitlines()]
        tokens = [_token(number, words) for number, words in enumerate(lines, 1) if words and words[0][0] != "#"]
        if not tokens:
            raise ValueError("it has no token; expected lines of NAME TOKEN [read-only]")
        if len({token for token, _ in tokens}) < len(tokens):
            raise ValueError("two lines have the same token; expected one for each name")
    return tuple(tokens)


def _token(number: int, words: Sequence[str]) -> tuple[bytes, Grant]:
    if len(words) not in (2, 3) or (len(words) == 3 and words[2] != READ_ONLY):
        raise ValueError(f"line {number} has {len(words)} words; expected NAME TOKEN [read-only]")
    if len(words[1]) < MIN_TOKEN_CHARACTERS:
        got = f"line {number}: the token of '{quoted(words[0])}' has {len(words[1])} characters"
        raise ValueError(f"{got}; expected at least {MIN_TOKEN_CHARACTERS}: openssl rand -hex 16")
    return words[1].encode(), Grant(quoted(words[0], 40), len(words) == 2)


def is_loopback(host: str) -> bool:
    """Whether only this machine is reached by ``host``."""
    if host.casefold() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _authority(origin: str) -> str:
    """Host and port of an Origin header; empty where it has none."""
    try:
        return urlsplit(origin).netloc.casefold()
    except ValueError:
        return ""


def _hostname(host: str) -> str:
    """Of a Host header: without the port and the brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
