"""A served policy from ``vla_ros import ws://…`` to everything that runs one; the server is in this process."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")

from served_helpers import DIM, HORIZON, Served, serving  # noqa: E402

from vla_ros.cli import main  # noqa: E402
from vla_ros.execution.runner import PolicyRunner  # noqa: E402
from vla_ros.policies.base import PolicyUnavailable  # noqa: E402
from vla_ros.policies.directory import load_policy  # noqa: E402
from vla_ros.policies.files import load_processor, open_policy  # noqa: E402
from vla_ros.policies.fill import build_policy  # noqa: E402
from vla_ros.policies.respace import respace  # noqa: E402
from vla_ros.policies.served.config import presets, read_keys  # noqa: E402
from vla_ros.policies.served.processor import ServedProcessor, make_message  # noqa: E402
from vla_ros.robot import load_robot  # noqa: E402
from vla_ros.transforms.prompted import PromptedRequest  # noqa: E402
from vla_ros.types import Continuation, Observation  # noqa: E402
from vla_ros.wire import decode_request, encode_request  # noqa: E402

ROBOT = Path(__file__).parents[1] / "data" / "three_joints.yaml"
JOINTS = ["base", "shoulder", "wrist"]
SPACE: dict[str, Any] = {
    "chunk_dt_s": 0.1,
    "state": [{"type": "joints", "joints": JOINTS, "unit": "deg"}],
    "action": [{"type": "joints", "joints": JOINTS, "unit": "deg"}],
    "cameras": [{"key": "base_0_rgb", "camera": "front"}, {"key": "left_wrist_0_rgb", "camera": "top"}],
}
KEYS: dict[str, Any] = {
    "pictures": [{"slot": "base_0_rgb", "key": ["base_rgb"]}, {"slot": "left_wrist_0_rgb", "key": ["wrist_rgb"]}],
    "state": [{"key": ["joints"]}, {"key": ["gripper"], "size": 1}],
}


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as served:
        yield served


def write(folder: Path, name: str, document: Any) -> str:
    (folder / name).write_text(yaml.safe_dump(document))
    return str(folder / name)


def do_import(served: Served, folder: Path, *options: str, keys: Any = KEYS, space: Any = SPACE) -> int:
    given = ["--space", write(folder, "space.yaml", space), "--keys", write(folder, "keys.yaml", keys)]
    return main(["import", served.url(), str(folder / "policy"), "--robot", str(ROBOT), *given, *options])


@pytest.fixture
def policy_dir(served: Served, tmp_path: Path) -> Path:
    assert do_import(served, tmp_path) == 0
    served.seen.clear()
    return tmp_path / "policy"


def refusal(capsys: pytest.CaptureFixture[str], served: Served, folder: Path, *options: str, **changes: Any) -> str:
    assert do_import(served, folder, *options, **changes) == 2
    message = capsys.readouterr().err
    assert message.startswith("vla_ros import: ") and message.count("\n") == 1
    assert not (folder / "policy").exists(), "something was left behind"
    return message


def observation(seed: int = 1) -> Observation:
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (24, 32, 3), np.uint8) for name in ("front", "top")}
    return Observation(7, dict.fromkeys(images, 7), images, rng.uniform(-0.3, 0.3, 3), "touch the röd block")


def test_the_directory_has_neither_weights_nor_statistics_and_loads_on_both_sides(
    served: Served, policy_dir: Path
) -> None:
    assert sorted(path.name for path in policy_dir.iterdir()) == ["golden.safetensors", "policy.yaml"]
    loaded, processor = load_policy(policy_dir, "cpu"), load_processor(policy_dir)
    assert loaded.digest == processor.digest and not loaded.drift and not loaded.notes
    assert loaded.processor.config.waits_for == f"the server at {served.url()}"
    runner, request = PolicyRunner(loaded.policy, loaded.device), processor.process(observation())
    inference = runner.run(request)
    assert list(inference.timings_ms) == ["copy_in", "make_message", "server", "read_answer", "copy_out"]
    chunk = processor.decode(inference.actions, observation())
    assert chunk.positions.shape == (HORIZON, 3)
    # The server answers near the state, in its unit.
    assert np.abs(chunk.positions - observation().joint_positions).max() < np.radians(0.1)
    runner.close()
    with pytest.raises(PolicyUnavailable, match="is not connected to any more"):
        runner.run(request)


def test_the_server_is_asked_in_its_own_words(served: Served, policy_dir: Path) -> None:
    policy, request = load_policy(policy_dir, "cpu").policy, load_processor(policy_dir).process(observation())
    PolicyRunner(policy, torch.device("cpu")).run(request)
    seen = served.seen[-1]
    assert list(seen) == ["base_rgb", "wrist_rgb", "joints", "gripper", "prompt"]
    assert seen["prompt"] == "touch the röd block"
    np.testing.assert_allclose(
        np.concatenate([seen["joints"], seen["gripper"]]), np.degrees(observation().joint_positions), rtol=1e-6
    )
    picture = seen["base_rgb"]
    assert picture.shape == (224, 224, 3) and picture.dtype == np.uint8
    assert not picture[:28].any() and not picture[-28:].any() and picture[28:-28].any(), "168 rows in the middle"
    policy.close()


def test_a_dictionary_may_be_nested_and_pictures_have_their_channels_first() -> None:
    keys = read_keys("aloha")
    rng = np.random.default_rng(0)
    images, prompt = rng.integers(0, 256, (3, 4, 5, 3), np.uint8), np.frombuffer(b"go\0\0", np.uint8)
    message = make_message(keys, images, prompt, np.zeros((1, 14), np.float32))
    assert list(message) == ["images", "state", "prompt"] and message["prompt"] == "go"
    assert list(message["images"]) == ["cam_high", "cam_left_wrist", "cam_right_wrist"]
    np.testing.assert_array_equal(message["images"]["cam_high"], images[0].transpose(2, 0, 1))


@pytest.mark.parametrize("robot, keys", [("franka_droid", "droid"), ("ur5e_robotiq", "ur5e"), ("aloha", "aloha")])
def test_the_packaged_dictionaries_fit_the_packaged_spaces_and_robots(
    robot: str, keys: str, served: Served, tmp_path: Path, capsys, monkeypatch
) -> None:
    space, num = {"droid": ("droid", 8), "ur5e": ("ur5e_served", 7), "aloha": ("aloha_served", 14)}[keys]
    monkeypatch.setattr("served_helpers.act", lambda seen, mode: np.zeros((HORIZON, num)))
    given = ["--robot", robot, "--keys", keys, "--space", space]
    assert main(["import", served.url(), str(tmp_path / "policy"), *given]) == 0, capsys.readouterr().err
    droid = {"observation/joint_position": 7, "observation/gripper_position": 1}
    state = {"droid": droid, "ur5e": {"joints": 6, "gripper": 1}, "aloha": {"state": 14}}[keys]
    assert {name: served.seen[0][name].size for name in state} == state
    assert {"droid", "ur5e", "aloha", "libero"} == set(presets())


def test_a_request_comes_back_from_the_wire_as_it_was_sent(policy_dir: Path) -> None:
    request = open_policy(policy_dir).golden.request
    message = decode_request(encode_request(request))
    back = PromptedRequest.from_tensors(message.tensors, message.metadata)
    for name, array in request.to_tensors().items():
        np.testing.assert_array_equal(back.to_tensors()[name], array)
    for name in ("image.0", "prompt", "state"):
        others = {key: array for key, array in message.tensors.items() if key != name}
        with pytest.raises(ValueError, match=f"tensor '{name}' is missing"):
            PromptedRequest.from_tensors(others, message.metadata)
    policy = build_policy(open_policy(policy_dir).processor.config)
    with pytest.raises(ValueError, match="request has images of .* give both nodes the same policy directory"):
        policy.check_request(replace(request, images=request.images[:1]))


def test_a_server_of_another_policy_is_refused_and_one_that_draws_noise_is_not(
    served: Served, tmp_path: Path, capsys
) -> None:
    served.mode = "noisy"
    assert do_import(served, tmp_path) == 0
    assert "other ones each time" in capsys.readouterr().out
    for _ in range(5):
        load_policy(tmp_path / "policy", "cpu").policy.close()
    served.mode = "other"
    with pytest.raises(ValueError, match="serves another policy than at import: number . of its golden actions is 0.3"):
        load_policy(tmp_path / "policy", "cpu")
    assert load_policy(tmp_path / "policy", "cpu", refuse_drift=False).drift


def test_a_server_that_comes_back_with_another_policy_is_not_driven_by(served: Served, policy_dir: Path) -> None:
    loaded = load_policy(policy_dir, "cpu")
    runner, request = PolicyRunner(loaded.policy, loaded.device), loaded.warm_up_requests[0]
    served.mode = "closes"
    with pytest.raises(PolicyUnavailable, match="closed the connection"):
        runner.run(request)
    served.mode = "other"
    deadline_s = time.monotonic() + 60
    while "another policy than at import" not in runner.trouble and time.monotonic() < deadline_s:
        time.sleep(0.01)
    with pytest.raises(PolicyUnavailable, match="another policy than at import"):
        runner.run(request)
    served.mode = "good"
    while runner.trouble and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert runner.run(request).actions.shape == (HORIZON, DIM)
    runner.close()


@pytest.mark.parametrize(
    "mode, line",
    [
        ("shape", r"answered with actions \[10, 2\]; expected \[10, 3\], as at import"),
        ("nan", "answered with actions that are not finite"),
        ("integers", r"actions int64 \[10, 3\]; expected floats"),
        ("missing", "answered with action, state, server_timing, actions NoneType; expected floats"),
        ("nested", "actions list; expected floats"),
    ],
)
def test_actions_that_cannot_be_used_are_named(mode: str, line: str, served: Served, policy_dir: Path) -> None:
    loaded = load_policy(policy_dir, "cpu")
    runner = PolicyRunner(loaded.policy, loaded.device)
    served.mode = mode
    with pytest.raises(PolicyUnavailable, match=line):
        runner.run(loaded.warm_up_requests[0])
    assert "answered" in runner.trouble
    runner.close()
    with pytest.raises(ValueError, match=line) as caught:
        load_policy(policy_dir, "cpu")
    assert "\n" not in str(caught.value)


def test_what_a_server_does_not_say_is_asked_for_by_name(served: Served, tmp_path: Path, capsys) -> None:
    command = ["import", served.url(), str(tmp_path / "policy"), "--robot", str(ROBOT)]
    assert main(command) == 2
    assert "which dictionary does the server want? say it with --keys, one of aloha, droid" in capsys.readouterr().err
    assert main([*command, "--keys", write(tmp_path, "keys.yaml", KEYS)]) == 2
    assert "say it with --space PRESET or FILE" in capsys.readouterr().err
    no_dt = {key: value for key, value in SPACE.items() if key != "chunk_dt_s"}
    assert "say it with --chunk-dt-s S" in refusal(capsys, served, tmp_path, space=no_dt)
    no_cameras = {**SPACE, "cameras": SPACE["cameras"][:1]}
    assert "which camera is left_wrist_0_rgb?" in refusal(capsys, served, tmp_path, space=no_cameras)


def test_an_import_that_cannot_be_is_refused_in_one_line(served: Served, tmp_path: Path, capsys) -> None:
    served.mode = "shape"
    expected = "gives 2 numbers for an action, the space has 3"
    assert expected in refusal(capsys, served, tmp_path)
    served.mode = "text"
    assert "failed and says: KeyError: 'observation/state'" in refusal(capsys, served, tmp_path)
    served.mode = "good"
    assert "--tokenizer is not for a server" in refusal(capsys, served, tmp_path, "--tokenizer", "x")
    wide = {**KEYS, "state": [{"key": ["joints"], "size": 7}]}
    assert "state makes 3 numbers" in refusal(capsys, served, tmp_path, keys=wide)
    twice = {**KEYS, "prompt": ["joints"]}
    assert "is given twice, or others lie in it" in refusal(capsys, served, tmp_path, keys=twice)
    inside = {**KEYS, "prompt": ["joints", "text"]}
    assert "is given twice, or others lie in it" in refusal(capsys, served, tmp_path, keys=inside)
    assert (
        main(
            [
                "import",
                "ws://localhost:1",
                str(tmp_path / "policy"),
                "--keys",
                "droid",
                "--space",
                "droid",
                "--robot",
                "franka_droid",
            ]
        )
        == 2
    )
    assert "refuses the connection; is the server running?" in capsys.readouterr().err
    assert main(["import", str(tmp_path), str(tmp_path / "policy"), "--keys", "droid"]) == 2
    assert "--keys is not for a checkpoint" in capsys.readouterr().err


def test_a_slot_without_a_camera_is_left_out(served: Served, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("served_helpers.act", lambda seen, mode: np.zeros((HORIZON, DIM), np.float32))
    assert do_import(served, tmp_path, "--camera", "left_wrist_0_rgb=none") == 0
    assert "wrist_rgb" not in served.seen[0] and load_processor(tmp_path / "policy").camera_names == ("front",)


def test_the_key_is_kept_where_it_is(tmp_path: Path) -> None:
    key = "secret-of-the-server"
    (tmp_path / "key").write_text(key)
    with serving(key=key) as served:
        assert do_import(served, tmp_path, "--api-key-file", str(tmp_path / "key")) == 0
        load_policy(tmp_path / "policy", "cpu").policy.close()
        held = b"".join(path.read_bytes() for path in (tmp_path / "policy").iterdir())
        assert key.encode() not in held and str(tmp_path / "key").encode() in held
        (tmp_path / "key").write_text("another-secret")
        with pytest.raises(ValueError, match="refuses with HTTP status 401"):
            load_policy(tmp_path / "policy", "cpu")
        (tmp_path / "key").unlink()
        with pytest.raises(ValueError, match="policy directory .*api_key_file '.*': No such file"):
            load_policy(tmp_path / "policy", "cpu")


def test_rtc_says_why_not(served: Served, policy_dir: Path) -> None:
    processor = load_processor(policy_dir)
    with pytest.raises(
        ValueError, match=r"\(its server takes no chunk to continue\); choose another strategy than rtc"
    ):
        processor.process(observation(), Continuation(np.zeros((HORIZON, 3)), 1))
    with pytest.raises(ValueError, match="its server takes no chunk to continue"):
        load_policy(policy_dir, "cpu", with_guidance=True)


def test_nobody_claims_that_it_waits_for_nothing(served: Served, policy_dir: Path, tmp_path: Path, capsys) -> None:
    report = tmp_path / "report.json"
    assert main(["audit", "--policy", str(policy_dir), "--json", str(report)]) == 1
    said = capsys.readouterr().out
    assert f"each inference waits for the server at {served.url()}" in said and "nothing waits" not in said
    assert json.loads(report.read_text())["waits"] == 1
    assert main(["bench", "--policy", str(policy_dir), "--device", "cpu"]) == 2
    assert "is computed by the server at" in capsys.readouterr().err


def test_what_only_weights_can_do_is_refused(policy_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="import it with another --space"):
        respace(policy_dir, tmp_path / "out", {}, load_robot(ROBOT))
    processor = open_policy(policy_dir).processor
    with pytest.raises(ValueError, match="isn't trained here"):
        ServedProcessor.for_training(processor.config, processor.data, {}, None, None)


@pytest.mark.parametrize(
    "change, line",
    [
        ({"url": "http://host"}, "policy.url is 'http://host'; expected ws://host:port"),
        ({"answer_timeout_s": 0.0}, "policy.answer_timeout_s is 0.0; expected at least 0.01"),
        ({"action_tolerance": [0.1]}, "policy.action_tolerance has 1 numbers; expected one of at least 0"),
        ({"state_dim": 4}, "policy.keys.state has sizes .* expected sizes that make state_dim, 4"),
        ({"keys": {**KEYS, "layout": "whc"}}, "layout is 'whc'; expected one of hwc, chw"),
        ({"keys": {**KEYS, "image_size": [224]}}, "image_size is .*; expected height and width"),
        ({"keys": {**KEYS, "pictures": []}}, "pictures is empty"),
    ],
)
def test_a_directory_that_was_edited_wrongly_is_refused_in_one_line(
    change: dict[str, Any], line: str, policy_dir: Path
) -> None:
    document = yaml.safe_load((policy_dir / "policy.yaml").read_text())
    document["policy"].update(change)
    write(policy_dir, "policy.yaml", document)
    with pytest.raises(ValueError, match=line) as caught:
        load_processor(policy_dir)
    assert "\n" not in str(caught.value)


def test_ways_to_normalise_are_the_servers(policy_dir: Path) -> None:
    document = yaml.safe_load((policy_dir / "policy.yaml").read_text())
    document["data"]["normalization"] = "quantile"
    write(policy_dir, "policy.yaml", document)
    with pytest.raises(ValueError, match="data.normalization is 'quantile'; a server normalises: none"):
        load_processor(policy_dir)
