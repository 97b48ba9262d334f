from __future__ import annotations

import re
from array import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from vla_ros.messages import images
from vla_ros.messages.compressed import is_whole_jpeg
from vla_ros.messages.images import decode_image, decode_pixels, encode_compressed_image, encode_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
ALPHA = np.full((5, 7, 1), 200, np.uint8)


def blank() -> SimpleNamespace:
    return SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0), frame_id=""))


def message(encoding: str, pixels: np.ndarray, padding: int = 0, is_bigendian: int = 0) -> SimpleNamespace:
    """An Image message whose rows carry ``padding`` bytes of rubbish at their end."""
    height, width = pixels.shape[:2]
    rows = np.frombuffer(pixels.tobytes(), np.uint8).reshape(height, -1)
    rows = np.hstack([rows, np.full((height, padding), 77, np.uint8)])
    data = array("B", rows.tobytes())
    return SimpleNamespace(
        encoding=encoding, height=height, width=width, step=rows.shape[1], is_bigendian=is_bigendian, data=data
    )


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    "encoding, pixels",
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("rgba8", np.concatenate([RGB, ALPHA], axis=2)),
        ("bgra8", np.concatenate([RGB[..., ::-1], ALPHA], axis=2)),
    ],
)
def test_every_plain_colour_encoding_becomes_the_same_rgb_with_and_without_padded_rows(encoding, pixels, padding):
    image = decode_image(message(encoding, pixels, padding))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, RGB)


def test_mono_becomes_grey_rgb():
    image = decode_image(message("mono8", RGB[..., 0], padding=3))
    np.testing.assert_array_equal(image, np.repeat(RGB[..., :1], 3, axis=2))


def test_rgb_is_a_view_of_the_messages_data():
    msg = message("rgb8", RGB, padding=4)
    assert np.shares_memory(decode_image(msg), np.frombuffer(msg.data, np.uint8))


@pytest.mark.parametrize("is_bigendian", [0, 1])
@pytest.mark.parametrize("encoding, dtype", [("16UC1", "u2"), ("32FC1", "f4")])
def test_depth_pixels_honour_step_and_byte_order(encoding, dtype, is_bigendian):
    depth = np.arange(35).reshape(5, 7).astype(dtype) * 321
    sent = depth.astype(np.dtype(dtype).newbyteorder(">" if is_bigendian else "<"))
    pixels = decode_pixels(message(encoding, sent, padding=3, is_bigendian=is_bigendian))
    assert pixels.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(pixels, depth)


def test_a_depth_image_where_a_picture_is_wanted_is_refused_by_its_encoding():
    with pytest.raises(ValueError, match="'16UC1' is depth.*robot file"):
        decode_image(message("16UC1", RGB[..., 0].astype("u2")))


@pytest.fixture
def cv_bridge(monkeypatch):
    """Installs a conversion in place of ROS's, or None."""

    def install(convert):
        monkeypatch.setattr(images, "find_cv_bridge", lambda: convert)

    return install


def test_an_unknown_encoding_is_named_with_what_is_supported(cv_bridge):
    cv_bridge(None)
    with pytest.raises(ValueError, match="'yuv422'.*rgb8.*cv_bridge"):
        decode_image(message("yuv422", RGB))


def test_an_unknown_encoding_goes_through_cv_bridge_where_it_is_installed(cv_bridge):
    cv_bridge(lambda msg, encoding: RGB)
    image = decode_image(message("bayer_rggb8", RGB[..., 0]))
    np.testing.assert_array_equal(image, RGB)


def test_a_conversion_that_fails_or_gives_another_shape_is_reported_in_one_line(cv_bridge):
    def fail(msg, encoding):
        raise RuntimeError("no such\nconversion")

    for convert in (fail, lambda msg, encoding: RGB[:2]):
        cv_bridge(convert)
        with pytest.raises(ValueError, match="'8UC5'.*cv_bridge") as caught:
            decode_image(message("8UC5", RGB))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field, value", [("height", 0), ("width", 0), ("step", 6), ("height", 6), ("width", 9)])
def test_sizes_that_contradict_the_data_are_refused(field, value):
    msg = message("rgb8", RGB)
    setattr(msg, field, value)
    with pytest.raises(ValueError, match="camera driver"):
        decode_image(msg)


def test_an_encoded_image_decodes_to_itself_and_carries_its_stamp():
    msg = blank()
    encode_image(RGB[:, ::-1], msg, stamp_ns=3_000_000_007, frame_id="front")
    np.testing.assert_array_equal(decode_image(msg), RGB[:, ::-1])
    assert isinstance(msg.data, array)
    assert (msg.header.stamp.sec, msg.header.stamp.nanosec, msg.header.frame_id) == (3, 7, "front")


def test_a_jpeg_keeps_its_colours():
    red = np.zeros((16, 24, 3), np.uint8)
    red[..., 0] = 250
    msg = blank()
    encode_compressed_image(red, msg, stamp_ns=0)
    image = decode_image(msg)
    assert image.shape == red.shape
    assert np.abs(image.astype(int) - red).max() < 8


def test_a_png_is_exact():
    data = cv2.imencode(".png", RGB[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_image(SimpleNamespace(format="png", data=data)), RGB)


def jpeg_of_impossible_size():
    data = bytearray(cv2.imencode(".jpg", RGB)[1].tobytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    return bytes(data)


@pytest.mark.parametrize("data", [b"", b"not a picture", jpeg_of_impossible_size()])
def test_damaged_compressed_data_is_refused_by_its_format(data):
    with pytest.raises(ValueError, match="format 'jpeg'"):
        decode_image(SimpleNamespace(format="jpeg", data=data))


GREY = cv2.imencode(".png", RGB[..., 0])[1].tobytes()
GREY_JPEG = cv2.imencode(".jpg", RGB[..., 0])[1].tobytes()
COLOUR = cv2.imencode(".png", RGB[..., ::-1])[1].tobytes()
COLOUR_JPEG = cv2.imencode(".jpg", RGB[..., ::-1])[1].tobytes()


@pytest.mark.parametrize(
    "text, data, said",
    [
        (
            "16UC1; png compressed ",
            cv2.imencode(".png", RGB[..., 0].astype("u2"))[1].tobytes(),
            "is depth.*colour topic",
        ),
        ("16UC1; jpeg compressed ", GREY_JPEG, "is depth.*colour topic"),
        ("32FC1; compressedDepth png", GREY, "is depth.*colour topic"),
        ("16UC1; compressedDepth rvl", b"rvl", "is depth.*colour topic"),
        ("mono16; png compressed mono16", GREY, "is depth.*colour topic"),
        ("bayer_rggb8; png compressed ", GREY, "is a mosaic.*debayered"),
        ("bayer_gbrg8; jpeg compressed bayer_gbrg8", GREY_JPEG, "is a mosaic.*debayered"),
        ("yuv422_yuy2; jpeg compressed mono8", GREY_JPEG, "is grey.*driver's encoding to rgb8"),
        ("rgb8; png compressed mono8", GREY, "is grey.*driver's encoding to rgb8"),
        ("yuv422; jpeg compressed ", GREY_JPEG, "is grey.*driver's encoding to rgb8"),
        ("rgb8; jpeg compressed bgr8", GREY_JPEG, "is grey.*driver's encoding to rgb8"),
    ],
)
def test_a_compressed_picture_that_is_not_colour_is_refused_with_what_to_set(text, data, said):
    with pytest.raises(ValueError, match=said) as caught:
        decode_image(SimpleNamespace(format=text, data=data))
    assert text in str(caught.value) and "\n" not in str(caught.value)
    assert not is_whole_jpeg(SimpleNamespace(format=text, data=data), 7, 5)


@pytest.mark.parametrize(
    "text, data",
    [
        ("jpeg", COLOUR_JPEG),
        ("png", COLOUR),
        ("", COLOUR),
        ("rgb8; jpeg compressed bgr8", COLOUR_JPEG),
        ("bgr8; png compressed bgr8", COLOUR),
        ("rgb16; png compressed bgr16", cv2.imencode(".png", RGB.astype("u2"))[1].tobytes()),
        ("bayer_rggb8; jpeg compressed bgr8", COLOUR_JPEG),
        ("yuv422_yuy2; jpeg compressed bgr8", COLOUR_JPEG),
        ("yuv422; jpeg compressed ", COLOUR_JPEG),
        ("mono8; jpeg compressed mono8", GREY_JPEG),
        ("mono8; png compressed ", GREY),
        ("jpeg", GREY_JPEG),
    ],
)
def test_a_compressed_picture_in_colour_or_of_a_grey_camera_is_taken(text, data):
    assert decode_image(SimpleNamespace(format=text, data=data)).shape == RGB.shape


def noise(suffix: str) -> bytes:
    return cv2.imencode(suffix, np.random.default_rng(1).integers(0, 256, (64, 48, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-12], lambda data: data[: len(data) // 2], lambda d: d[:-12] + bytes(12)]
)
def test_a_picture_that_breaks_off_is_refused_though_a_decoder_would_repair_it(suffix, damage):
    data = noise(suffix)
    with pytest.raises(ValueError, match="breaks off after .* whole picture"):
        decode_image(SimpleNamespace(format="jpeg", data=damage(data)))


RESTARTS = [cv2.IMWRITE_JPEG_RST_INTERVAL, 3]
PROGRESSIVE = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
FULL_CHROMA = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
PICTURES = {
    "noise": np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8),
    "flat": np.full((100, 75, 3), 40, np.uint8),
    "a slope": np.add.outer(np.arange(120), np.arange(160)).astype(np.uint8)[..., None].repeat(3, axis=-1),
}


@pytest.mark.parametrize("settings", [[], RESTARTS, FULL_CHROMA, PROGRESSIVE, PROGRESSIVE + RESTARTS])
@pytest.mark.parametrize("name", PICTURES)
def test_a_jpeg_cut_in_its_middle_is_refused_though_its_end_marker_was_put_back(name, settings):
    data = cv2.imencode(".jpg", PICTURES[name], settings)[1].tobytes()
    assert decode_image(SimpleNamespace(format="jpeg", data=data)).shape == PICTURES[name].shape
    scan = data.index(b"\xff\xda") + 14
    for share in (0.1, 0.3, 0.5, 0.7, 0.85):
        cut = data[: scan + int((len(data) - 2 - scan) * share)].rstrip(b"\xff") + b"\xff\xd9"
        with pytest.raises(ValueError, match="breaks off after .* whole picture"):
            decode_image(SimpleNamespace(format="jpeg", data=cut))


@pytest.mark.parametrize("settings", [[], RESTARTS, PROGRESSIVE])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_that_lost_a_piece_of_its_middle_is_refused(settings, channels):
    pixels = PICTURES["noise"] if channels == 3 else PICTURES["noise"][..., 0]
    data = cv2.imencode(".jpg", pixels, settings)[1].tobytes()
    middle = (data.index(b"\xff\xda") + len(data)) // 2
    for size in (len(data) // 8, len(data) // 4):
        lost = SimpleNamespace(format="jpeg", data=data[:middle].rstrip(b"\xff") + data[middle + size :])
        with pytest.raises(ValueError, match="breaks off after .* whole picture"):
            decode_image(lost)


def test_a_progressive_jpeg_without_its_last_scans_is_refused():
    data = cv2.imencode(".jpg", PICTURES["noise"], PROGRESSIVE)[1].tobytes()
    scans = [found.start() for found in re.finditer(b"\xff\xda", data)]
    assert len(scans) > 5
    for scan in scans[1:]:
        with pytest.raises(ValueError, match="breaks off after .* whole picture"):
            decode_image(SimpleNamespace(format="jpeg", data=data[:scan] + b"\xff\xd9"))


@pytest.mark.parametrize("settings", [[], RESTARTS, PROGRESSIVE])
def test_a_picture_that_ends_in_the_grey_that_decoders_fill_up_with_is_taken(settings):
    for grey_from in (0, 64, 80):
        pixels = PICTURES["noise"].copy()
        pixels[grey_from:] = 128
        data = cv2.imencode(".jpg", pixels, settings)[1].tobytes()
        assert (decode_image(SimpleNamespace(format="jpeg", data=data))[-1] == 128).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_what_a_driver_pads_a_whole_picture_with_does_no_harm(suffix):
    data = noise(suffix) + bytes(100)
    assert decode_image(SimpleNamespace(format="jpeg", data=data)).shape == (64, 48, 3)
