"""The thread that writes a recording, before a bag that only remembers."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from bag_samples import COMPRESSED_IMAGE, IMAGE, STRING, at, image, string

from vla_ros.bags.definitions import TYPES, serialize
from vla_ros.messages.images import decode_frame
from vla_ros.messages.times import time_to_ns
from vla_ros.record import writing
from vla_ros.record.writing import WriterThread, as_jpeg

PIXELS = (np.indices((24, 32)).sum(axis=0)[..., None] * (4, 3, 2)).astype(np.uint8)
PICTURE = bytes(serialize(image(at(3), PIXELS)))
DEPTH = bytes(serialize(image(at(3), PIXELS[..., :2], "16UC1")))
TEXT = bytes(serialize(string("pick it up")))


class Bag:
    """Waits for ``may_go`` before each write, and raises ``error`` where there is one."""

    def __init__(self) -> None:
        self.told: list[tuple] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.error: ValueError | None = None

    def add_topic(self, topic: str, msgtype: str, offered_qos: list) -> None:
        self.told.append(("add", topic, msgtype))

    def write(self, topic: str, data: bytes, stamp_ns: int) -> None:
        self.may_go.wait()
        if self.error is not None:
            raise self.error
        self.told.append(("write", topic, bytes(data), stamp_ns))

    def flush(self) -> None:
        self.told.append(("flush",))


def test_messages_are_written_in_the_order_they_were_told_each_topic_declared_before_its_first():
    bag = Bag()
    with WriterThread(bag) as writer:
        for stamp_ns in (1, 2):
            writer.write("/task", STRING, [], TEXT, stamp_ns)
            writer.write("/image", IMAGE, [], PICTURE, stamp_ns)
        writer.flush()
    written = [("write", topic, data, ns) for ns in (1, 2) for topic, data in (("/task", TEXT), ("/image", PICTURE))]
    declared = [("add", "/task", STRING), ("add", "/image", IMAGE)]
    assert bag.told == [declared[0], written[0], declared[1], *written[1:], ("flush",)]


def test_images_become_jpegs_beside_their_topic_with_the_header_they_had():
    bag = Bag()
    with WriterThread(bag, jpeg_quality=95) as writer:
        writer.write("/image", IMAGE, [], PICTURE, 7)
    declared, (_, topic, data, stamp_ns) = bag.told
    assert declared == ("add", "/image/compressed", COMPRESSED_IMAGE) and (topic, stamp_ns) == (declared[1], 7)
    msg = TYPES.deserialize_cdr(data, COMPRESSED_IMAGE)
    assert msg.format == "rgb8; jpeg compressed bgr8"
    assert (time_to_ns(msg.header.stamp), msg.header.frame_id) == (at(3), "base")
    assert np.abs(decode_frame(msg, 32, 24).astype(int) - PIXELS).mean() < 3.0


def test_an_image_that_cannot_be_a_jpeg_is_kept_as_it_came_and_that_is_said_once():
    bag = Bag()
    with WriterThread(bag, jpeg_quality=95) as writer:
        for stamp_ns in (1, 2):
            writer.write("/depth", IMAGE, [], DEPTH, stamp_ns)
    assert [entry[:3] for entry in bag.told[1:]] == [("write", "/depth", DEPTH)] * 2
    assert list(writer.problems) == ["/depth"] and "not as JPEG: image encoding '16UC1'" in writer.problems["/depth"]


@pytest.mark.parametrize("data", [b"", PICTURE[:100], PICTURE[:-4], DEPTH], ids=["empty", "short", "cut off", "depth"])
def test_what_is_no_picture_is_refused_in_one_line(data):
    with pytest.raises(ValueError) as refusal:
        as_jpeg(data, 90)
    assert "\n" not in str(refusal.value)


def test_what_the_bag_raises_the_next_call_raises():
    bag = Bag()
    bag.error = ValueError("bag: No space left on device")
    writer = WriterThread(bag)
    with pytest.raises(ValueError, match="No space left"):
        while True:
            writer.write("/task", STRING, [], TEXT, 1)
    with pytest.raises(ValueError, match="No space left"):
        writer.close()


def test_whoever_records_waits_where_too_much_waits_for_the_disk(monkeypatch):
    monkeypatch.setattr(writing, "MAX_WAITING_BYTES", 3 * len(TEXT))
    bag = Bag()
    bag.may_go.clear()
    is_told = threading.Event()
    with WriterThread(bag) as writer:

        def tell() -> None:
            for stamp_ns in range(10):
                writer.write("/task", STRING, [], TEXT, stamp_ns)
            is_told.set()

        teller = threading.Thread(target=tell)
        teller.start()
        assert not is_told.wait(0.2)
        bag.may_go.set()
        assert is_told.wait(30.0)
        teller.join()
    assert [entry[3] for entry in bag.told[1:]] == list(range(10))
