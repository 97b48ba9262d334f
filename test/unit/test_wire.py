"""The link between the two nodes: what goes in comes out, and anything else is refused."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

from vla_ros import wire
from vla_ros.policies.modules.vlm_bridge.inputs import PolicyInput
from vla_ros.policies.pi.request import PiRequest


def make_request() -> PiRequest:
    rng = np.random.default_rng(0)
    policy_input = PolicyInput(
        pixel_values=rng.integers(0, 255, (8, 12), dtype=np.uint8),
        input_ids=np.arange(5),
        attention_mask=np.array([False, True, True, True, True]),
        prefix_mask=np.tri(7, dtype=bool),
        position_ids=np.arange(21).reshape(3, 7),
        target_ids=None,
        image_grid=((1, 2, 2), (1, 2, 2)),
    )
    state, noise = rng.normal(size=(1, 6)).astype(np.float32), rng.normal(size=(10, 6)).astype(np.float32)
    return PiRequest(123456789012345, policy_input, state, noise)


def make_result() -> wire.PolicyResult:
    actions = np.random.default_rng(1).normal(size=(10, 6)).astype(np.float32)
    return wire.PolicyResult(987654321, "ab" * 32, actions, 41.5, {"prefix": 20.25, "suffix": 21.25})


def test_a_request_comes_back_as_it_was_sent():
    request = make_request()
    message = wire.decode_request(wire.encode_request(request))
    back = PiRequest.from_tensors(message.tensors, message.metadata)
    assert back.stamp_ns == request.stamp_ns
    assert back.policy_input.image_grid == request.policy_input.image_grid
    for name, array in request.to_tensors().items():
        np.testing.assert_array_equal(back.to_tensors()[name], array)
        assert back.to_tensors()[name].dtype == array.dtype


def test_a_result_comes_back_as_it_was_sent():
    result = make_result()
    back = wire.decode_result(wire.encode_result(result))
    np.testing.assert_array_equal(back.actions, result.actions)
    assert (back.stamp_ns, back.digest, back.inference_ms) == (result.stamp_ns, result.digest, result.inference_ms)
    assert back.timings_ms == result.timings_ms


def test_a_result_is_no_request_and_a_request_no_result():
    with pytest.raises(ValueError, match="expected a 'vla_ros request"):
        wire.decode_request(wire.encode_result(make_result()))
    with pytest.raises(ValueError, match="expected a 'vla_ros result"):
        wire.decode_result(wire.encode_request(make_request()))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "int32", "int64", "float16", "float32", "float64", ">f4"])
def test_safetensors_reads_what_is_written_of_every_type(dtype):
    arrays = {
        "many": np.arange(12).reshape(3, 4).astype(dtype),
        "none": np.zeros((0, 2), dtype),
        "one": np.ones((), dtype),
    }
    back = safetensors.numpy.load(
        wire._encode(wire.TensorMessage({"text": np.zeros(3, np.uint8), **arrays}, {"a": "ä"}))
    )
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype.newbyteorder("=")


def test_an_array_that_is_not_contiguous_is_sent_by_its_values():
    result = make_result()
    turned = wire.PolicyResult(1, "d", np.asfortranarray(result.actions), 1.0, {})
    np.testing.assert_array_equal(wire.decode_result(wire.encode_result(turned)).actions, result.actions)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04K\x01.",
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"{}",
        (4).to_bytes(8, "little") + b"null",
        (60000).to_bytes(8, "little") + b"[" * 60000,
    ],
    ids=["nothing", "a pickle", "noise", "no tensors", "a null header", "a deep header"],
)
def test_bytes_that_are_no_message_are_refused(data):
    with pytest.raises(ValueError):
        wire.decode_request(data)
    with pytest.raises(ValueError):
        wire.decode_result(data)


def test_a_result_with_actions_of_another_type_is_refused():
    result = wire.PolicyResult(1, "d", np.zeros((2, 3), np.float64), 1.0, {})
    with pytest.raises(ValueError, match="float64"):
        wire.decode_result(wire.encode_result(result))


def test_damaged_messages_raise_nothing_but_value_error():
    rng = np.random.default_rng(7)
    messages = (wire.encode_request(make_request()), wire.encode_result(make_result()))
    for message in messages:
        for _ in range(500):
            damaged = bytearray(message[: rng.integers(1, len(message) + 1)])
            for _ in range(rng.integers(1, 8)):
                damaged[rng.integers(len(damaged))] = rng.integers(256)
            for decode in (wire.decode_request, wire.decode_result):
                try:
                    decoded = decode(bytes(damaged))
                    if decode is wire.decode_request:
                        PiRequest.from_tensors(decoded.tensors, decoded.metadata)
                except ValueError:
                    pass


KEY, OTHER = b"k" * 32, b"o" * 32
SIGNING = {
    "no key": (b"", b"", ""),
    "one key": (KEY, KEY, ""),
    "two keys": (KEY, OTHER, "message is signed with another key, or changed on the way"),
    "a key here only": (b"", KEY, "message is not signed; expected one signed with the shared key"),
    "a key there only": (KEY, b"", "message is signed, and this node has no key"),
}


@pytest.mark.parametrize("what", SIGNING)
def test_a_message_is_taken_only_from_who_has_the_same_key(what: str):
    theirs, ours, line = SIGNING[what]
    for kind, data in (
        (wire.REQUEST, wire.encode_request(make_request())),
        (wire.RESULT, wire.encode_result(make_result())),
    ):
        sent = wire.sign(data, theirs)
        assert (sent == data) == (not theirs), "without a key the bytes are what they were"
        if not line:
            assert wire.open_message(sent, kind, ours) == data
            continue
        with pytest.raises(ValueError, match=line):
            wire.open_message(sent, kind, ours)


def test_a_signed_message_that_was_changed_anywhere_is_refused():
    sent = wire.sign(wire.encode_result(make_result()), KEY)
    for place in range(0, len(sent), 37):
        changed = bytearray(sent)
        changed[place] ^= 1
        with pytest.raises(ValueError, match="signed"):
            wire.open_message(bytes(changed), wire.RESULT, KEY)


@pytest.mark.parametrize(
    ("content", "line"),
    [(None, "No such file"), (b"short", "holds 5 bytes; expected 16 to 4096"), (b"x" * 10_000, "expected 16 to 4096")],
)
def test_a_file_without_a_usable_key_is_refused(tmp_path, content: bytes | None, line: str):
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=line):
        wire.read_link_key(str(file))


def test_a_key_is_the_same_with_and_without_a_line_end(tmp_path):
    (tmp_path / "key").write_bytes(KEY + b"\n")
    assert wire.read_link_key(str(tmp_path / "key")) == KEY and wire.read_link_key("") == b""
