"""Bags that are cut off, damaged or not there: what comes before is used, and one line says what is wrong."""

import shutil
import sqlite3
import struct

import numpy as np
import pytest
import yaml
from bag_samples import (
    MCAP,
    SQLITE,
    at,
    expected_texts,
    many_images,
    read_stamps,
    read_texts,
    storage_file,
    string,
    texts,
    write_bag,
)
from rosbags.rosbag2 import CompressionMode

from vla_ros.bags.mcap import MAGIC
from vla_ros.bags.read import BagReader


@pytest.mark.parametrize("compression", [None, CompressionMode.STORAGE])
@pytest.mark.parametrize("share", [0.999, 0.7, 0.4, 0.05])
def test_a_recording_cut_off_anywhere_is_used_up_to_there(tmp_path, compression, share):
    bag = write_bag(tmp_path / "bag", many_images(), compression=compression)
    path = storage_file(bag)
    whole, _ = read_stamps(bag)
    path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])
    (bag / "metadata.yaml").unlink()
    read, problems = read_stamps(bag)
    assert read == whole[: len(read)]
    # Of a chunk that isn't compressed, what has reached the disk is used.
    assert len(read) >= len(whole) * share - (10 if compression is None else 25)
    assert len(problems) == 2 and all("\n" not in line and str(bag) in line for line in problems)
    assert BagReader(bag).contents is None


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("num_bytes", range(0, 1200, 37))
def test_the_first_bytes_of_a_bag_alone_are_refused_in_one_line_or_used(tmp_path, storage, num_bytes):
    bag = write_bag(tmp_path / "bag", texts(20), storage)
    path = storage_file(bag)
    path.write_bytes(path.read_bytes()[:num_bytes])
    reader = BagReader(path)
    try:
        read = [reader.decode(message).data for message in reader.messages()]
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert read == expected_texts(len(read)) and read and len(reader.problems) == 1


def test_a_database_cut_off_is_used_up_to_there(tmp_path):
    bag = write_bag(tmp_path / "bag", many_images(), SQLITE)
    path = storage_file(bag)
    whole, _ = read_stamps(bag)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    read, problems = read_stamps(bag)
    assert read == whole[: len(read)] and len(read) >= 20
    assert len(problems) == 1 and "database is damaged" in problems[0]


def test_rows_in_the_write_ahead_log_of_a_killed_recorder_are_read(tmp_path):
    bag = write_bag(tmp_path / "bag", texts(3), SQLITE)
    connection = sqlite3.connect(storage_file(bag))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("INSERT INTO messages SELECT NULL, topic_id, timestamp + 1000000000, data FROM messages")
    connection.commit()
    killed = tmp_path / "killed"
    shutil.copytree(bag, killed)
    connection.close()
    assert len(read_texts(killed)[0]) == 6


def test_a_file_without_index_is_read_from_its_beginning(tmp_path):
    bag = write_bag(tmp_path / "bag", texts(5))
    path = storage_file(bag)
    data = bytearray(path.read_bytes())
    data[-28:-12] = bytes(16)  # the footer's places of the summary
    path.write_bytes(data)
    read, problems = read_texts(bag)
    assert read == expected_texts(5)
    assert len(problems) == 1 and "no index" in problems[0] and "5 messages" in problems[0]


def test_messages_without_chunks_are_read(tmp_path):
    """As rosbag2's fastest preset writes them."""
    chunked = storage_file(write_bag(tmp_path / "bag", texts(5))).read_bytes()
    start = len(MAGIC) + 9 + struct.unpack_from("<Q", chunked, len(MAGIC) + 1)[0]
    (size,) = struct.unpack_from("<Q", chunked, start + 1)
    records = chunked[start + 9 + 40 : start + 9 + size]
    path = tmp_path / "plain.mcap"
    path.write_bytes(chunked[:start] + records + struct.pack("<BQI", 15, 4, 0))
    assert read_texts(path)[0] == expected_texts(5)
    path.write_bytes(chunked[:start] + records[:-5])
    read, problems = read_texts(path)
    assert read == expected_texts(4) and "cut off" in problems[0]


@pytest.mark.parametrize("seed", range(40))
def test_garbage_in_a_bag_never_raises_anything_but_one_line(tmp_path, seed):
    rng = np.random.default_rng(seed)
    storage, compression = [(MCAP, None), (SQLITE, None), (MCAP, CompressionMode.STORAGE)][seed % 3]
    bag = write_bag(tmp_path / "bag", texts(200), storage, compression)
    path = storage_file(bag)
    data = bytearray(path.read_bytes())
    place = int(rng.integers(0, len(data)))
    garbage = rng.bytes(int(rng.integers(1, 400)))
    data[place : place + len(garbage)] = garbage
    path.write_bytes(data)
    try:
        reader = BagReader(bag)
        for message in reader.messages():
            try:
                reader.decode(message)
            except ValueError as error:
                assert "\n" not in str(error)
        assert all("\n" not in line for line in reader.problems)
    except ValueError as error:
        assert "\n" not in str(error) and str(bag) in str(error)


@pytest.mark.parametrize("suffix", [".mcap", ".db3", ".mcap.zstd", ".db3.zstd"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 1000])
def test_a_file_that_is_empty_or_nothing_of_the_kind_is_refused_in_one_line(tmp_path, suffix, content):
    path = tmp_path / f"bag{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError) as refused:
        list(BagReader(path).messages())
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["nothing", "empty", "text.txt"])
def test_what_is_no_bag_is_refused_by_its_path(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no bag")
    with pytest.raises(ValueError, match="give the folder of a rosbag2 bag") as refused:
        BagReader(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)


def test_a_missing_file_of_a_split_bag_is_reported_and_the_rest_read(tmp_path):
    bag = write_bag(tmp_path / "bag", texts(5))
    document = yaml.safe_load((bag / "metadata.yaml").read_text())
    document["rosbag2_bagfile_information"]["relative_file_paths"].append("bag_1.mcap")
    (bag / "metadata.yaml").write_text(yaml.safe_dump(document))
    read, problems = read_texts(bag)
    assert read == expected_texts(5) and problems == (f"bag {bag}: bag_1.mcap of its metadata.yaml is missing",)


def test_a_file_that_the_metadata_list_twice_is_read_once(tmp_path):
    bag = write_bag(tmp_path / "bag", texts(5))
    document = yaml.safe_load((bag / "metadata.yaml").read_text())
    document["rosbag2_bagfile_information"]["relative_file_paths"] *= 2
    (bag / "metadata.yaml").write_text(yaml.safe_dump(document))
    assert read_texts(bag) == (expected_texts(5), ())


@pytest.mark.parametrize("text", ["", "[1, 2", "just text", "rosbag2_bagfile_information: {relative_file_paths: 3}"])
def test_a_broken_metadata_file_is_reported_and_the_files_read_without_it(tmp_path, text):
    bag = write_bag(tmp_path / "bag", texts(5))
    (bag / "metadata.yaml").write_text(text)
    read, problems = read_texts(bag)
    assert read == expected_texts(5) and len(problems) == 1 and "metadata.yaml" in problems[0]


def test_what_lies_behind_a_damaged_file_is_left_out(tmp_path):
    bag = tmp_path / "bag"
    bag.mkdir()
    for i in range(3):
        messages = [("/text", string(f"text {3 * i + k}"), at(3 * i + k)) for k in range(3)]
        shutil.copy(storage_file(write_bag(tmp_path / str(i), messages)), bag / f"bag_{i}.mcap")
    data = (bag / "bag_1.mcap").read_bytes()
    (bag / "bag_1.mcap").write_bytes(data[: data.index(b"text 5")])
    read, problems = read_texts(bag)
    assert read == expected_texts(5)
    assert len(problems) == 2 and "bag_1.mcap: it is cut off" in problems[1] and "the 5 messages before" in problems[1]
