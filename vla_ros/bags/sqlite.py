"""rosbag2's sqlite3 files, read row by row in the order they were written."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from vla_ros.bags.compression import COMPRESSED_SUFFIX, ZstdError, open_file
from vla_ros.bags.storage import (
    MAX_BYTES,
    BagTopic,
    Channel,
    Contents,
    DamagedFile,
    RawMessage,
    full_msgtype,
    full_topic,
)
from vla_ros.strict import quoted

_TABLES = ("messages", "topics", "message_definitions")
# Of sqlite's virtual machine; a row takes about ten.
FREE_STEPS, STEPS = 20_000_000, 10_000
READS_PER_OPENING = 100_000


def scan(path: Path, is_wanted: Callable[[str], bool]) -> Iterator[RawMessage]:
    """The messages of the topics that ``is_wanted``, in the order they were written.

    Raises DamagedFile where the file breaks off or makes no sense.
    """
    with _opened(path) as connection:
        channels = {key: channel for key, channel in _channels(connection).items() if is_wanted(channel.topic)}
        marks = ",".join("?" * len(channels))
        rows = f"SELECT topic_id, timestamp, data, id FROM messages WHERE topic_id IN ({marks}) ORDER BY id"
        for key, stamp_ns, data, number in connection.execute(rows, tuple(channels)):
            if not isinstance(stamp_ns, int) or not isinstance(data, bytes) or not isinstance(number, int):
                raise DamagedFile("a row of its messages has no time or no data")
            yield RawMessage(channels[key], stamp_ns, memoryview(data), (0, number, 0))


class Messages:
    """Messages of a file by their ``place``."""

    def __init__(self, path: Path) -> None:
        self._path, self._num_read = path, 0
        self._stack = ExitStack()
        self._connection = self._stack.enter_context(_opened(path))

    def read(self, start: int, position: int) -> memoryview:
        """The serialized message there. Raises DamagedFile where there is none."""
        self._num_read += 1
        if self._num_read % READS_PER_OPENING == 0:  # of a connection only so much work is taken
            self.close()
            self._connection = self._stack.enter_context(_opened(self._path))
        try:
            row = self._connection.execute("SELECT data FROM messages WHERE id = ?", (start,)).fetchone()
        except sqlite3.Error as error:
            raise DamagedFile(f"its database is damaged ({error})") from error
        if row is None or not isinstance(row[0], bytes):
            raise DamagedFile(f"no message with id {start} any more")
        return memoryview(row[0])

    def close(self) -> None:
        self._stack.close()


def read_contents(path: Path) -> Contents | None:
    """What the file holds, without reading messages; None where it is compressed as a whole.

    Raises DamagedFile where its tables cannot be read.
    """
    if path.suffix == COMPRESSED_SUFFIX:
        return None
    with _opened(path) as connection:
        counts = dict(connection.execute("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id"))
        start_ns, end_ns = connection.execute("SELECT MIN(timestamp), MAX(timestamp) FROM messages").fetchone()
        channels = _channels(connection).items()
        topics = (BagTopic(channel.topic, channel.msgtype, counts.get(key, 0)) for key, channel in channels)
        return Contents(tuple(topics), start_ns, end_ns)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The file, read-only; what sqlite and zstd find wrong with it becomes a DamagedFile."""
    if not path.stat().st_size:
        raise DamagedFile("it is empty")
    try:
        with TemporaryDirectory() as folder:
            plain = path
            if path.suffix == COMPRESSED_SUFFIX:
                plain = Path(folder) / path.stem
                with open_file(path) as packed, plain.open("wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
            # A write-ahead log holds what a recorder that was killed had not merged yet. Without one, nothing may be
            # written beside the file: bags lie on read-only media.
            log = plain.with_name(f"{plain.name}-wal")
            how = "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
            address = f"{plain.absolute().as_uri()}?{how}"
            # Opened, used and closed by one thread at a time.
            with closing(sqlite3.connect(address, uri=True, check_same_thread=False)) as connection:
                connection.text_factory = lambda text: text.decode(errors="replace")
                # Without it sqlite refuses a file shorter than its header says, down to the rows that are there.
                connection.execute("PRAGMA writable_schema=ON")
                _limit(connection, plain.stat().st_size + (log.stat().st_size if log.exists() else 0))
                yield connection
    except (sqlite3.Error, ZstdError, EOFError) as error:
        raise DamagedFile(f"its database is damaged ({error})") from error


def _limit(connection: sqlite3.Connection, num_bytes: int) -> None:
    """What a file says must not decide how long sqlite works: nothing it holds is a program, or larger than itself."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(MAX_BYTES, 2 * num_bytes + (1 << 16)))
    num_left = itertools.count(FREE_STEPS // STEPS + num_bytes // STEPS, -1)
    connection.set_progress_handler(lambda: next(num_left) < 0, STEPS)
    for name, kind, text in connection.execute("SELECT name, type, sql FROM sqlite_master").fetchall():
        if name in _TABLES and (kind != "table" or not str(text).upper().startswith("CREATE TABLE")):
            raise DamagedFile(f"its '{name}' is a {quoted(str(kind))}; expected a table of rows")
        if name in _TABLES and any(row[6] for row in connection.execute(f"PRAGMA table_xinfo({name})")):
            raise DamagedFile(f"its table '{name}' has computed columns; expected stored ones")


def _channels(connection: sqlite3.Connection) -> dict[int, Channel]:
    definitions: dict[str, tuple[str, str]] = {}
    # Recorded since Iron; Humble's files don't have the table, and other writers' may have another.
    with suppress(sqlite3.Error):
        rows = connection.execute("SELECT topic_type, encoding, encoded_message_definition FROM message_definitions")
        for msgtype, encoding, text in map(_as_texts, rows):
            if text:
                definitions[full_msgtype(msgtype)] = encoding, text
    rows = connection.execute("SELECT id, name, type, serialization_format FROM topics")
    channels = {}
    for key, *texts in rows:
        topic, msgtype, serialization = _as_texts(texts)
        msgtype = full_msgtype(msgtype)
        channels[key] = Channel(full_topic(topic), msgtype, serialization, *definitions.get(msgtype, ("", "")))
    return channels


def _as_texts(values: Iterable[object]) -> tuple[str, ...]:
    """A row's values as texts, whatever sqlite holds in their place."""
    return tuple(
        value.decode(errors="replace") if isinstance(value, bytes) else str("" if value is None else value)
        for value in values
    )
