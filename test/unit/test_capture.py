"""Capturing a computation as a CUDA graph, with a CUDA that only notes what it is asked for."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from vla_ros.execution.capture import GraphCapture  # noqa: E402


class FakeGraph:
    def __init__(self) -> None:
        self.num_replays = 0

    def replay(self) -> None:
        self.num_replays += 1


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A capture whose ``fail`` is raised at the end of the recording, as CUDA does."""
    state = SimpleNamespace(fail=None, graphs=[], arguments=[])

    @contextmanager
    def graph(graph: FakeGraph, **arguments: Any):
        state.arguments.append(arguments)
        state.graphs.append(graph)
        yield
        if state.fail is not None:
            raise state.fail

    @contextmanager
    def stream(_: object):
        yield

    waiting = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "Stream": lambda device: waiting,
        "current_stream": lambda device: waiting,
        "stream": stream,
        "graph_pool_handle": lambda: "the pool",
        "CUDAGraph": FakeGraph,
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    state.capture = GraphCapture(torch.device("cpu"))
    return state


def test_a_replay_gives_the_recorded_output_from_one_pool_and_one_stream(capture) -> None:
    outputs = [torch.ones(2), torch.zeros(2)]
    replays = [capture.capture.capture_sync(lambda output=output: output) for output in outputs]
    for replay, output, graph in zip(replays, outputs, capture.graphs, strict=True):
        before = graph.num_replays
        assert replay() is output and graph.num_replays == before + 1
    assert {arguments["pool"] for arguments in capture.arguments} == {"the pool"}
    assert capture.arguments[0]["stream"] is capture.arguments[1]["stream"]


def test_an_output_that_is_not_a_tensor_is_recorded_too(capture) -> None:
    output = ("keys", "values")
    assert capture.capture.capture_sync(lambda: output)() is output


def test_whatever_ends_a_recording_is_one_line(capture) -> None:
    capture.fail = ValueError("operation not permitted\nwhen stream is capturing")
    with pytest.raises(
        RuntimeError, match="not captured as a CUDA graph: operation not permitted when stream"
    ) as caught:
        capture.capture.capture_sync(lambda: torch.ones(2))
    assert "\n" not in str(caught.value)


def test_a_replay_that_gives_other_numbers_is_not_used(capture) -> None:
    given = iter([1.0, 1.0, 1.0, 2.0])
    with pytest.raises(RuntimeError, match="its replay is 1 off what was recorded"):
        capture.capture.capture_sync(lambda: torch.tensor([next(given)]))
