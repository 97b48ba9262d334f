"""Files made to hurt: what a file says must not decide how much work is done before anybody has looked at it."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from functools import partial

import pytest

torch = pytest.importorskip("torch")

from fuzz import check_good, fuzz, judge  # noqa: E402
from fuzz_readers import READERS, Sample  # noqa: E402
from hurtful_helpers import (  # noqa: E402
    BOMB,
    COMPUTED,
    EXPERT,
    FOREVER,
    GROWING,
    HUGE,
    PADDING,
    SHARED_KEY,
    SHARED_LISTS,
    STRING,
    TRAJECTORY,
    VLM,
    Hurt,
    cdr_string,
    changed,
    chunk,
    doubling,
    expanded,
    fifo,
    folder,
    interpolated,
    joint_state,
    link,
    metadata,
    one_message,
    packed_zeros,
    pickled,
    picture,
    records,
    repacked,
    replaced,
    safetensors,
    saved,
    scripted,
    shared_key,
    split,
    sql,
    tensor,
    text,
    trajectory,
)

from vla_ros.bags.definitions import layout_of  # noqa: E402
from vla_ros.bags.storage import Channel  # noqa: E402


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Sample]]:
    made: dict[str, Sample] = {}

    def sample(name: str) -> Sample:
        if name not in made:
            made[name] = READERS[name](tmp_path_factory.mktemp("sample") / "sample")
            check_good(made[name])
        return made[name]

    yield sample


NONE_OF_IT = "nothing"
HURTFUL: list[tuple[str, Hurt, str]] = [
    ("robot", text(doubling("[*a{0}, *a{0}]", "[1]")), "aliases stand for more than"),
    ("robot", text(doubling("{{<<: [*a{0}, *a{0}]}}", "{k: 1}")), "aliases stand for more than"),
    ("robot", text("a: &a [*a]"), "an alias stands for itself"),
    ("robot", text("[" * 100_000), "levels"),
    ("robot", text("[" + "1," * 1_900_000 + "]"), "more than 100000 values"),
    ("robot", text("x: " + "a" * 5_000_000), "more than 4194304 bytes"),
    ("robot", replaced("lower: -1.5,", "lower: -1.5, max_velocity: 99, "), "'max_velocity' is given twice"),
    ("robot", replaced("lower: -1.5", "lower: -1:30"), "has a colon; expected a plain decimal number"),
    ("robot", replaced("lower: -1.5", "lower: -010"), "begins with 0"),
    ("robot", replaced("lower: -1.5", "lower: -1:30.5"), "has a colon"),
    ("robot", replaced("name: base", f'name: "{BOMB}"'), "without control characters"),
    ("robot", replaced("name: base", f'"{BOMB}": base'), "unknown key"),
    ("robot", replaced("lower: -1.5", "lower: 1" + "0" * 400), "beyond 64 bits"),
    ("robot", fifo, "it is a pipe or a device; expected a regular file"),
    ("robot", link("/dev/zero"), "it is a pipe or a device"),
    ("robot", folder, "it is a folder"),
    ("urdf", fifo, "it is a pipe or a device"),
    ("urdf", replaced('"wrist"', '"a&#10;b"'), r"whose joints are base, shoulder, a\\nb"),
    ("urdf", replaced('"base"', '"wrist"'), "twice"),
    ("urdf", text("<robot>" + "<a>" * 200_000), "not readable as XML"),
    ("urdf", text("<a xmlns='x&#10;y'/>"), "expected <robot>"),
    ("urdf", text("<robot>" + " " * (5 << 20)), "more than 4194304 bytes"),
    ("policy.yaml", changed(*VLM, "text_config", "num_hidden_layers", to=HUGE), "num_hidden_layers is 1099511627776"),
    ("policy.yaml", changed(*VLM, "vision_config", "depth", to=HUGE), "depth is 1099511627776"),
    (
        "policy.yaml",
        changed(*VLM, "text_config", "num_attention_heads", to=0),
        "num_attention_heads is 0; expected at least 1",
    ),
    ("policy.yaml", changed(*VLM, "text_config", "hidden_size", to=HUGE), "hidden_size is 1099511627776"),
    ("policy.yaml", changed(*VLM, "vision_config", "patch_size", to=0), "patch_size is 0"),
    ("policy.yaml", changed(*VLM, "vision_config", "spatial_merge_size", to=0), "spatial_merge_size is 0"),
    ("policy.yaml", changed(*EXPERT, "num_key_value_heads", to=0), "num_key_value_heads is 0"),
    ("policy.yaml", changed(*EXPERT, "num_hidden_layers", to=HUGE), "num_hidden_layers is 1099511627776"),
    ("policy.yaml", changed(*EXPERT, "head_dim", to=HUGE), "head_dim is 1099511627776"),
    ("policy.yaml", changed("policy", "num_steps", to=2**31), "num_steps is 2147483648"),
    ("policy.yaml", changed("policy", "num_obs_registers", to=HUGE), "num_obs_registers is 1099511627776"),
    ("policy.yaml", changed("policy", "action_horizon", to=HUGE), "action_horizon is 1099511627776"),
    ("policy.yaml", changed("data", "action", to=[{"type": "constant", "size": HUGE}]), "size is 1099511627776"),
    ("policy.yaml", replaced("policy:", "policy: {}\npolicy:"), "'policy' is given twice"),
    ("policy.yaml", text(doubling("[*a{0}, *a{0}]", "[1]")), "aliases stand for more than"),
    ("processor.json", changed("image_height", to=HUGE), "image_height is 1099511627776"),
    ("processor.json", changed("camera_width", to=HUGE), "camera_width is 1099511627776"),
    ("processor.json", changed("buckets", to=[10**12]), "buckets are"),
    ("processor.json", changed("buckets", to=[48, 1500]), NONE_OF_IT),
    ("processor.json", changed("buckets", to=list(range(1, 5000))), "buckets are"),
    ("processor.json", text("[" * 100_000), "nests more than"),
    ("processor.json", text('{"type": 1, "type": 2}'), "'type' is given twice"),
    ("tokenizer.json", changed("padding", to=PADDING), NONE_OF_IT),
    ("tokenizer.json", changed("truncation", to={"max_length": HUGE}), NONE_OF_IT),
    ("tokenizer.json", changed("pre_tokenizer", to=split("(")), "not readable as a tokenizer"),
    ("tokenizer.json", changed("pre_tokenizer", to=split("(a+)+b" * 1000)), "expression of more than"),
    ("tokenizer.json", changed("normalizer", to=split("a") | {"type": "Replace", "content": "a" * 99}), "more than 16"),
    ("tokenizer.json", changed("normalizer", to={"type": "Sequence", "normalizers": [GROWING] * 9}), "too many steps"),
    ("tokenizer.json", changed("model", "vocab", "zzz", to=2**32 - 1), "tokenizer.json"),
    ("tokenizer.json", text("[" * 100_000), "nests more than"),
    ("norm_stats.json", changed("state", "mean", to=[[10**30] * 3]), "beyond 64 bits"),
    ("norm_stats.json", replaced("[", "[1e999,"), "norm_stats.json"),
    ("norm_stats.json", text("[" * 100_000), "nests more than"),
    ("golden.safetensors", tensor(of="U8", dtype="F8_E4M3"), "damaged .it has tensors of type F8_E4M3"),
    ("golden.safetensors", tensor(shape=[HUGE, 0]), "damaged"),
    ("golden.safetensors", safetensors("{}", size=2**62), "its header has 4611686018427387904 bytes"),
    ("golden.safetensors", safetensors("{}", size=2**64 - 1), "its header has"),
    ("golden.safetensors", fifo, "is missing"),
    ("golden.safetensors", metadata(cameras="[" * 100_000), "nests more than"),
    ("golden.safetensors", metadata(stamp_ns="9" * 5000), "damaged"),
    ("model.safetensors", safetensors("{}", size=2**62), "its header has"),
    ("model.safetensors", tensor(shape=[HUGE]), "damaged"),
    ("model.safetensors", tensor(data_offsets=[0, 2**62]), "damaged"),
    ("model.safetensors", safetensors("{" + "[" * 100_000), "damaged"),
    ("cfg.yaml", text(doubling("[*a{0}, *a{0}]", "[1]") + "\npolicy: {}"), "aliases stand for more than"),
    ("import", replaced("model_id: vlm", "model_id: " + "a" * 5000), "at most 200 characters"),
    ("cfg.yaml", replaced("policy:", "x: ${x}\npolicy:"), "interpolations stand for"),
    ("cfg.yaml", replaced("policy:", interpolated("12345678", "'{0}{0}'")), "stands? for more than"),
    ("cfg.yaml", replaced("policy:", interpolated("[1]", "['{0}', '{0}']")), "interpolations stand for"),
    ("config.json", changed("text_config", "num_hidden_layers", to=HUGE), "num_hidden_layers is"),
    ("config.json", changed("text_config", "num_key_value_heads", to=0), ""),
    ("config.json", text("[" * 100_000), "nests more than"),
    ("model.pt", saved(expanded), "weights are larger than the file"),
    ("model.pt", shared_key, "a tuple is used twice"),
    ("model.pt", repacked, "compressed archive"),
    ("model.pt", scripted, "model.pt"),
    ("model.pt", saved(lambda weights: weights.update({(1, 2): 3})), "a name of type tuple"),
    ("model.pt", saved(lambda weights: weights.update({"a\n\x1b[31m": 3})), r"a\\n\\x1b"),
    ("stats.npz", pickled(SHARED_LISTS), "no statistics of the state|damaged|not readable"),
    ("stats.npz", pickled(SHARED_KEY), "a tuple is used twice"),
    ("stats.npz", pickled(b"\x80\x02Nr\xff\xff\xff\x7f."), "keeps more than"),
    ("stats.npz", pickled(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"."), "not readable as statistics"),
    ("stats.npz", pickled(b"\x80\x05\x8e" + struct.pack("<Q", 2**62) + b"."), "not readable as statistics"),
    ("case.safetensors", tensor(of="BOOL", dtype="F8_E5M2"), "not readable"),
    ("request", tensor(of="U8", dtype="F8_E4M3"), "safetensors"),
    ("request", metadata(image_grid=f"[[{10**30}, 1, 1]]"), "image_grid"),
    ("request", metadata(image_grid="[" * 100_000), "image_grid"),
    ("request", safetensors("[" * 100_000), "not valid JSON"),
    ("result", metadata(timings_ms='{"a": 1' + "0" * 400 + "}"), "result lacks usable metadata"),
    ("result", metadata(timings_ms="[" * 100_000), "result lacks usable metadata"),
    ("metadata.yaml", text(doubling("[*a{0}, *a{0}]", "[1]")), "aliases stand for more than"),
    ("metadata.yaml", fifo, "metadata.yaml"),
    ("mcap", chunk(131 << 24), "unpacks to more than"),
    ("mcap", chunk(6 << 24, num_chunks=200), "damaged"),
    (
        "mcap",
        one_message("/vla_policy/trace", STRING, cdr_string(b"[" * 10_000_000)),
        "is not the trace",
    ),
    (
        "mcap",
        one_message("/vla_policy/mode", STRING, cdr_string(b"\x1b[31m" * 2_000_000)),
        "expected one of",
    ),
    ("mcap", one_message("/joint_states", "sensor_msgs/msg/JointState", joint_state(60_000)), "60000 names"),
    (
        "mcap",
        one_message("/vla_policy/chunk", TRAJECTORY, trajectory(60_000)),
        "60000 joint names",
    ),
    ("mcap", one_message("/top/image", "sensor_msgs/msg/CompressedImage", picture(".jpg")), "30000x30000"),
    ("mcap", one_message("/top/image", "sensor_msgs/msg/CompressedImage", picture(".png")), "30000x30000"),
    ("db3", sql("DROP TABLE messages", FOREVER), "'messages' is a view"),
    ("db3", sql("DROP TABLE messages", COMPUTED), "has computed columns"),
    ("db3", sql("UPDATE messages SET data = zeroblob(200000000) WHERE id = 3"), "damaged"),
    ("db3.zstd", packed_zeros(1 << 30), "unpacks to more than"),
    ("mcap.zstd", records, "unpacks to more than"),
    ("baseline.json", text("[" * 100_000), "nests more than"),
    ("baseline.json", replaced('"start_ns":', '"start_ns": 1e400, "x":'), "damaged"),
    ("overrides", text("seed=" + '{"a":' * 100_000 + "1" + "}" * 100_000), "is too long"),
    ("overrides", text("seed=" + "[" * 900 + "]" * 900), "is too long"),
    ("overrides", text("bags=a bags=b"), "'bags' is given twice"),
    ("overrides", text("seed=1 +seed=2"), "'seed' is given twice"),
    ("overrides", text("hydra.run.dir=/tmp"), "'hydra.run.dir' is Hydra's own"),
    ("trace", replaced("0.5", "1" + "0" * 400), "is not the trace"),
    ("trace", text("[" * 100_000), "is not the trace"),
    ("sim/reset", text("[" * 100_000), "not JSON"),
]


@pytest.mark.parametrize(
    ("reader", "hurt", "expected"), HURTFUL, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(HURTFUL)]
)
def test_a_file_made_to_hurt_is_refused_at_once_in_one_line(samples, reader: str, hurt: Hurt, expected: str) -> None:
    sample = samples(reader)
    tally = judge(sample, [partial(hurt, sample.path)])
    assert not tally.faults
    if expected == NONE_OF_IT:
        assert tally.said == ""
    else:
        assert re.search(expected, tally.said), tally.said


SEPARATOR = "\n" + "=" * 80 + "\nMSG: "


@pytest.mark.parametrize(
    "definition",
    [
        "string[100000000] x",
        f"x/B[100000000] x{SEPARATOR}x/B\nint8 a",
        f"x/B[1000] x{SEPARATOR}x/B\nx/C[1000] a{SEPARATOR}x/C\nint8 a",
        "x/B0 a"
        + "".join(f"{SEPARATOR}x/B{i}\nx/B{i + 1} a\nx/B{i + 1} b" for i in range(40))
        + f"{SEPARATOR}x/B40\nint8 a",
        f"x/B x{SEPARATOR}x/B\nx/A a",
        "x/A[] x",
        "".join(f"float64 x{i}\n" for i in range(5000)),
        "# " + "a" * 1_000_000 + "\nfloat64 x",
    ],
    ids=["texts", "messages", "arrays of arrays", "doubling", "circle", "sequence of itself", "fields", "comment"],
)
def test_a_type_that_is_larger_than_any_is_refused_before_code_is_made_for_it(definition: str) -> None:
    with pytest.raises(ValueError, match="the definition of x/msg/A in the bag cannot be read"):
        layout_of(Channel("/a", "x/msg/A", "cdr", "ros2msg", definition))


@pytest.mark.parametrize("reader", READERS)
def test_mutations_of_a_good_file_are_read_or_refused_in_one_line(reader: str) -> None:
    tally = fuzz(reader, 12, seed=7)
    assert not tally.faults
