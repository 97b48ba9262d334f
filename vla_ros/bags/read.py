"""rosbag2 bags, MCAP and sqlite3, read in the order of their recording: no ROS graph, no ROS installation."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from vla_ros.bags import mcap, sqlite
from vla_ros.bags.compression import plain_message
from vla_ros.bags.definitions import Layout, is_same_layout, layout_of
from vla_ros.bags.files import MCAP_SUFFIX, find_files, storage_suffix
from vla_ros.bags.storage import BagTopic, Channel, Contents, DamagedFile, RawMessage
from vla_ros.strict import explained, max_unpacked_bytes, one_line
from vla_ros.units import NS_PER_S

# As in ROS, a time is a signed 64-bit number; MCAP has room for larger ones.
MAX_STAMP_NS = (1 << 63) - 1 - NS_PER_S
# A recorder may look at one topic this much later than at another.
WINDOW_NS = NS_PER_S
MAX_HELD_BYTES = 1 << 27
MAX_KINDS = 100


class Tally:
    """What went wrong: the first line of each kind and how often it came; beyond ``MAX_KINDS`` only their number."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._num: Counter[str] = Counter()
        self._num_beyond = 0

    def add(self, kind: str, line: str) -> None:
        """One thing of ``kind`` went wrong; ``line`` says it whole."""
        if kind in self._first or len(self._first) < MAX_KINDS:
            self._first.setdefault(kind, one_line(line))
            self._num[kind] += 1
        else:
            self._num_beyond += 1

    @property
    def lines(self) -> tuple[str, ...]:
        """What went wrong so far, in the order it was first seen."""
        lines = [
            line if self._num[kind] == 1 else f"{line} ({self._num[kind]} times)" for kind, line in self._first.items()
        ]
        return (*lines, f"{self._num_beyond} further problems of other kinds") if self._num_beyond else tuple(lines)


class BagReader:
    """One bag: the folder of one, or a storage file. Whatever is wrong with it is collected in ``problems``.

    ``contents`` is None where files don't say what they hold: recordings that were cut off, compressed files. What lies
    behind damage is left out, as are messages of a topic whose type changes. Raises ValueError for a path that is not a
    bag.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files = find_files(self.path)
        self._tally = Tally()
        for line in self._files.problems:
            self._tally.add(line, line)
        self._channels: dict[str, Channel] = {}
        self._refused: set[Channel] = set()
        self._layouts: dict[str, Layout] = {}
        self._unindexed: dict[Path, str] = {}
        self._opened: dict[int, Any] = {}  # what message_at reads, by the number of the file
        self.contents = self._read_contents()

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each problem met so far, naming the bag."""
        return self._tally.lines

    @property
    def files(self) -> tuple[Path, ...]:
        """Its storage files, in their order."""
        return self._files.paths

    def messages(self, topics: Collection[str] = ()) -> Iterator[RawMessage]:
        """The messages of ``topics``, or of all, sorted by ``stamp_ns``.

        Raises ValueError, with the first problem, where none can be read because of the damage.
        """
        num_left = max_unpacked_bytes(sum(path.stat().st_size for path in self._files.paths))
        for channel, stamp_ns, data, place in in_time_order(self._stored(frozenset(topics)), self._on_late):
            if stamp_ns > MAX_STAMP_NS:
                line = (
                    f"message of '{channel.topic}' at {stamp_ns / NS_PER_S:.3f} s, beyond the year 2262; it is left out"
                )
                self._report(f"stamp {channel.topic}", line)
                continue
            try:
                message = RawMessage(channel, stamp_ns, plain_message(data, num_left), place)
            except DamagedFile as error:
                self._report(channel.topic, f"message of '{channel.topic}': {error}; it is left out")
            else:
                num_left -= len(message.data) - len(data)
                yield message

    def first_of(self, *topics: str) -> str:
        """The first of ``topics`` that has messages; of a bag that doesn't say what it holds, the one whose first
        message comes first. Empty where none has, or nothing can be read."""
        if self.contents is not None:
            present = {topic.name for topic in self.contents.topics if topic.num_messages}
            return next((topic for topic in topics if topic in present), "")
        with suppress(ValueError):
            return next((message.topic for message in BagReader(self.path).messages(topics)), "")
        return ""

    def layout(self, topic: str) -> Layout:
        """How the messages of a topic that has been read are laid out. Raises ValueError where that cannot be known."""
        if topic not in self._layouts:
            self._layouts[topic] = layout_of(self._channels[topic], self._files.distribution)
        return self._layouts[topic]

    def decode(self, message: RawMessage) -> Any:
        """The message itself; its arrays are views of its data. Raises ValueError where it cannot be decoded."""
        return self.layout(message.topic).decode(message.data)

    def message_at(self, topic: str, place: tuple[int, int, int]) -> Any:
        """A message that ``messages`` gave, decoded once more; its topic has to have been read since. Raises ValueError
        where it is no longer there."""
        number, start, position = place
        path = self._files.paths[number]
        with explained(f"bag {self.path}: {path.name}: ", DamagedFile, OSError, after="; it was changed or damaged"):
            if number not in self._opened:
                self._opened[number] = _format(path).Messages(path)
            return self.layout(topic).decode(plain_message(self._opened[number].read(start, position)))

    def close(self) -> None:
        """Close the files that ``message_at`` reads."""
        for opened in self._opened.values():
            opened.close()
        self._opened.clear()

    def _stored(self, topics: frozenset[str]) -> Iterator[RawMessage]:
        """Everything up to the first damage, file by file, in the order it was written."""
        num_stored, damage = 0, ""
        for number, path in enumerate(self._files.paths):
            try:
                for message in _format(path).scan(path, lambda topic: not topics or topic in topics):
                    if self._is_usable(message.channel):
                        num_stored += 1
                        yield message._replace(place=(number, *message.place[1:]))
            except (DamagedFile, OSError) as error:
                line = self._report(path.name, f"{path.name}: {error}; {_used(num_stored, ' before')}")
                damage = damage or line
                if num_stored:  # a gap in what follows would go unnoticed
                    return
            else:
                if path in self._unindexed:
                    self._report(path.name, f"{path.name}: {self._unindexed[path]}; {_used(num_stored)}")
        if damage and not num_stored:
            raise ValueError(damage)

    def _is_usable(self, channel: Channel) -> bool:
        """Whether a channel's messages are like those of its topic so far."""
        topic = channel.topic
        known = self._channels.setdefault(topic, channel)
        if channel not in self._refused and is_same_layout(known, channel):
            self._channels[topic] = channel
            return True
        self._refused.add(channel)
        how = f"from {known.msgtype} to {channel.msgtype}" if known.msgtype != channel.msgtype else "its definition"
        self._report(f"type {topic}", f"'{topic}' changes {how}; messages of the second type are left out")
        return False

    def _on_late(self, message: RawMessage, behind_ns: int) -> None:
        self._report(
            "late",
            f"a message of '{message.topic}' at {message.stamp_ns / NS_PER_S:.3f} s comes after others "
            f"{behind_ns / NS_PER_S:.3f} s later than it; messages that far out of order, as where "
            "the clock was set back, are left out",
        )

    def _report(self, kind: str, line: str) -> str:
        line = f"bag {self.path}: {line}"
        self._tally.add(kind, line)
        return line

    def _read_contents(self) -> Contents | None:
        """What all files together say they hold; None where one of them doesn't."""
        known: list[Contents] = []
        for path in self._files.paths:
            try:
                contents = _format(path).read_contents(path)
            except (DamagedFile, OSError) as error:
                self._unindexed[path] = str(error)
            else:
                known += [] if contents is None else [contents]
        if len(known) < len(self._files.paths):
            return None
        counts: Counter[tuple[str, str]] = Counter()
        for topic in (topic for contents in known for topic in contents.topics):
            counts[topic.name, topic.msgtype] += topic.num_messages
        return Contents(
            tuple(BagTopic(*key, num_messages) for key, num_messages in sorted(counts.items())),
            min((contents.start_ns for contents in known if contents.start_ns is not None), default=None),
            max((contents.end_ns for contents in known if contents.end_ns is not None), default=None),
        )


def _format(path: Path) -> ModuleType:
    """The module that reads such a file."""
    return mcap if storage_suffix(path) == MCAP_SUFFIX else sqlite


def in_time_order(messages: Iterable[RawMessage], on_late: Callable[[RawMessage, int], None]) -> Iterator[RawMessage]:
    """``messages``, written in nearly but not quite the order of their stamps, sorted, as far as ``WINDOW_NS`` and
    ``MAX_HELD_BYTES`` of them allow.

    One that comes later than that goes to ``on_late``, with the ns by which it is behind, and is left out. A single
    stamp far ahead holds nothing up: it waits for its time.
    """
    waiting: list[tuple[int, int, RawMessage]] = []
    num_bytes, latest_ns = 0, 0
    for number, message in enumerate(messages):
        stamp_ns = message.stamp_ns
        if stamp_ns < latest_ns:
            on_late(message, latest_ns - stamp_ns)
            continue
        heapq.heappush(waiting, (stamp_ns, number, message))
        num_bytes += len(message.data)
        while waiting[0][0] <= stamp_ns - WINDOW_NS or num_bytes > MAX_HELD_BYTES:
            latest_ns, _, first = heapq.heappop(waiting)
            num_bytes -= len(first.data)
            yield first
            if not waiting:
                break
    while waiting:
        yield heapq.heappop(waiting)[2]


def _used(num: int, where: str = "") -> str:
    return f"the {num} message{'s' * (num != 1)}{where} {'are' if num != 1 else 'is'} used"
