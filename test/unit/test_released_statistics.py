"""Statistics of releases are read in every layout, and nothing that hides in them is run."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_ros.policies.pi.released.statistics import read_released_stats
from vla_ros.transforms.normalize import FieldStats, Normalizer

SHAPES = {"state": (1, 3), "action": (4, 3)}
RELEASED = {"mean": "mean_", "std": "std_", "q01": "q01", "q99": "q99"}


def tables(key: str, extra_rows: int = 0) -> dict[str, np.ndarray]:
    horizon, dim = SHAPES[key]
    low, high = np.sort(np.random.default_rng(horizon).normal(size=(2, horizon + extra_rows, dim)), axis=0)
    return {"mean_": (low + high) / 2, "std_": (high - low) / 4, "q01": low, "q99": high}


def flat(separator: str, **changes: np.ndarray) -> dict[str, np.ndarray]:
    entries = {f"{key}{separator}{name}": array for key in SHAPES for name, array in tables(key).items()}
    return entries | changes


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        read_released_stats(path, SHAPES)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def save(tmp_path: Path, entries: dict[str, Any]) -> Path:
    np.savez(tmp_path / "stats.npz", **entries)
    return tmp_path / "stats.npz"


@pytest.mark.parametrize(
    "entries",
    [
        flat("/"),
        flat("."),
        {key: tables(key) for key in SHAPES},
        {"observation.state": tables("state"), "action_chunk.actions": tables("action", extra_rows=3)},
        {key: {name: np.asfortranarray(x.astype(">f4")) for name, x in tables(key).items()} for key in SHAPES},
    ],
    ids=["slashes", "dots", "mappings", "released names and a longer horizon", "other byte and element order"],
)
def test_every_layout_gives_the_same_tables(tmp_path: Path, entries: dict[str, Any]) -> None:
    stats = read_released_stats(save(tmp_path, entries), SHAPES)
    for key, shape in SHAPES.items():
        source = entries.get(key) or entries.get({"state": "observation.state", "action": "action_chunk.actions"}[key])
        expected = source or {name: entries.get(f"{key}/{name}", entries.get(f"{key}.{name}")) for name in tables(key)}
        for field, array in vars(stats[key]).items():
            assert array.shape == shape and array.dtype == np.float32
            np.testing.assert_allclose(array, expected[RELEASED[field]][: shape[0]], rtol=1e-6)


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "stats.npz", **{key: tables(key) for key in SHAPES})
    assert read_released_stats(tmp_path / "stats.npz", SHAPES)["state"].q01.shape == (1, 3)


class Malice:
    """Unpickling it would make a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("where", ["entry", "table", "instead of an array"])
def test_a_pickle_that_would_run_code_runs_nothing(tmp_path: Path, where: str) -> None:
    marker = tmp_path / "ran"
    entries: dict[str, Any] = {key: tables(key) for key in SHAPES}
    if where == "table":
        entries["state"]["mean_"] = Malice(marker)
    else:
        entries["state"] = np.array(Malice(marker), dtype=object)
    path = save(tmp_path, entries)
    if where == "instead of an array":
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("state.npy", header.getvalue() + pickle.dumps(Malice(marker)))
    assert "mkdir" in refusal(path) and "nothing was run" in refusal(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Malice(marker)))  # it does run where a pickle is trusted
    assert marker.is_dir()


@pytest.mark.parametrize(
    "value",
    [
        [pickle.dumps],
        np.ndarray,
        np.dtype([("a", "f4")]),
        np.array(["text"]),
        np.array(["2020-01-01"], "datetime64[s]"),
        np.array([np.array([1.0], dtype=object)], dtype=object),
    ],
    ids=["function", "class", "structured type", "strings", "dates", "nested objects"],
)
def test_what_is_no_array_of_numbers_is_refused(tmp_path: Path, value: Any) -> None:
    entries = {key: tables(key) for key in SHAPES}
    entries["state"]["mean_"] = value
    refusal(save(tmp_path, entries))


@pytest.mark.parametrize("state", [b"", b"\x80", b"N.", b"]q\x00h\x00a.", b"cnumpy\ndtype\n)R(ltb."])
def test_a_damaged_pickle_is_refused(tmp_path: Path, state: bytes) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
    with zipfile.ZipFile(tmp_path / "stats.npz", "w") as archive:
        archive.writestr("state.npy", header.getvalue() + state)
    refusal(tmp_path / "stats.npz")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = save(tmp_path, flat("/"))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "give an .npz of numpy arrays" in refusal(path)


def test_a_file_that_unpacks_to_more_than_statistics_are_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "stats.npz", big=np.zeros(9 << 20))
    assert "more than 64 MiB" in refusal(tmp_path / "stats.npz")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"state/mean_": np.zeros((1, 2))}, "state.mean_ has shape (1, 2); the policy needs [horizon, dim] = (1, 3)"),
        ({"action/q99": np.zeros((3, 3))}, "action.q99 has shape (3, 3)"),
        ({"action/std_": np.full((4, 3), np.nan)}, "action.std_ has values that are not finite"),
        ({"action/std_": np.full((4, 3), -1.0)}, "std below 0"),
        ({"state/q01": np.full((1, 3), 99.0)}, "state: q99 lies below q01"),
        ({"state/q01": np.array([["a", "b", "c"]])}, "state.q01 is missing or not an array of numbers"),
    ],
)
def test_tables_that_no_policy_can_use_are_refused_by_name(tmp_path: Path, changes, expected: str) -> None:
    assert expected in refusal(save(tmp_path, flat("/", **changes)))


def test_a_missing_key_is_refused_with_the_ones_there_are(tmp_path: Path) -> None:
    message = refusal(save(tmp_path, {"state": tables("state"), "gripper": np.zeros(3)}))
    assert "no statistics of the action among state, gripper" in message


def test_quantiles_become_minus_one_and_one_and_both_directions_clamp() -> None:
    stats = FieldStats(*(table.astype(np.float32) for table in tables("state").values()))
    normalizer = Normalizer("quantile", stats)
    span = stats.q99 - stats.q01
    np.testing.assert_allclose(normalizer.normalize(stats.q01), -1.0, atol=1e-5)
    np.testing.assert_allclose(normalizer.normalize(stats.q99), 1.0, atol=1e-5)
    np.testing.assert_allclose(normalizer.normalize(stats.q99 + 10 * span), 1.5)
    np.testing.assert_allclose(normalizer.denormalize(np.full((1, 3), -9.0)), stats.q01 - span / 4, atol=1e-5)


def test_a_dimension_that_never_moved_is_zero() -> None:
    constant = np.full((1, 3), 0.7, np.float32)
    normalizer = Normalizer("quantile", FieldStats(constant, 0 * constant, constant, constant))
    np.testing.assert_array_equal(normalizer.normalize(constant), 0.0)
    np.testing.assert_allclose(normalizer.denormalize(np.ones((1, 3))), constant, atol=1e-6)
