"""Times the link between the two nodes: a request and its result, with no model between them; beside it, in turn, bare
messages of the same sizes that nobody encodes or reads: what the middleware and the machine take by themselves.

A second process plays the model node: it receives requests on real topics over loopback, reads them as that node does
and answers at once with actions of the right shape. Timed is the whole way round on the policy node's side, from the
policy input in memory to the actions in memory, once for each request at a fixed rate. Exits 1 above ``--max-p99-ms``.

    python benchmarks/link.py [--requests 1000] [--rate-hz 20] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from reaction import use_own_domain

from vla_ros.policies.families import find_config
from vla_ros.policies.pi.request import PiRequest
from vla_ros.policies.pi.trials import synthetic_request
from vla_ros.wire import PolicyResult, decode_request, decode_result, encode_request, encode_result

REQUEST_TOPIC, RESULT_TOPIC = "vla_model/request", "vla_model/result"
NUM_TEXT_TOKENS = 78
NUM_WARM_UP = 20
NUM_CODEC_RUNS = 200
PATIENCE_S = 20.0
DIGEST = "0" * 64
BARE = b"bare"
NUM_RESULT_BYTES = 700


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000, metavar="N", help="how many (default 1000)")
    parser.add_argument("--rate-hz", type=float, default=20.0, metavar="HZ", help="requests in a second (default 20)")
    parser.add_argument("--max-p99-ms", type=float, default=5.0, metavar="MS", help="exit 1 above it (default 5)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    use_own_domain()
    if args.serve:
        serve()
        return 0
    request = synthetic_request(find_config("pi-qwen"), num_cameras=2, num_text_tokens=NUM_TEXT_TOKENS)
    codec_ms = time_codec(request)
    round_trips_ms, bare_ms, num_lost = time_link(request, args.requests, args.rate_hz)
    figures = {
        "round_trip_ms": percentiles(round_trips_ms),
        "bare_messages_ms": percentiles(bare_ms),
        "codec_ms": {name: percentiles(times_ms) for name, times_ms in codec_ms.items()},
        "request_bytes": len(encode_request(request)),
        "num_requests": len(round_trips_ms),
        "num_lost": num_lost,
        "rate_hz": args.rate_hz,
    }
    print(f"{figures['request_bytes']} bytes a request, {len(round_trips_ms)} answered, {num_lost} lost")
    for name, values in {
        "round trip": figures["round_trip_ms"],
        "bare messages": figures["bare_messages_ms"],
        **figures["codec_ms"],
    }.items():
        print(f"  {name:<16}" + "  ".join(f"{key} {value:7.3f} ms" for key, value in values.items()))
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if figures["round_trip_ms"]["p99"] <= args.max_p99_ms else 1


def percentiles(times_ms: list[float]) -> dict[str, float]:
    return {f"p{share}": float(np.percentile(times_ms, share)) for share in (50, 90, 99, 100)}


def time_codec(request: PiRequest) -> dict[str, list[float]]:
    """What encoding and decoding alone take, without ROS."""
    encoded, answer = encode_request(request), encode_result(make_result(request))
    runs: dict[str, Callable[[], object]] = {
        "encode request": lambda: encode_request(request),
        "decode request": lambda: read_request(encoded),
        "encode result": lambda: encode_result(make_result(request)),
        "decode result": lambda: decode_result(answer),
    }
    return {name: [_time_ms(run) for _ in range(NUM_CODEC_RUNS)] for name, run in runs.items()}


def time_link(request: PiRequest, num_requests: int, rate_hz: float) -> tuple[list[float], list[float], int]:
    """Round trips in ms, those of bare messages, and how many requests had no answer.

    Requests go out one at a time, as the policy node's do, with a bare message half-way to the next.
    """
    import rclpy

    client = Client()
    bare = BARE + bytes(len(encode_request(request)) - len(BARE))
    env = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    child = subprocess.Popen([sys.executable, __file__, "--serve"], env=env)
    try:
        client.wait_for_server()
        for _ in range(NUM_WARM_UP):
            client.ask(request)
            client.echo(bare)
        gc.collect()
        gc.freeze()
        times_ms, bare_ms, start_s = [], [], time.perf_counter()
        for i in range(2 * num_requests):
            time.sleep(max(0.0, start_s + i / (2 * rate_hz) - time.perf_counter()))
            if i % 2:
                bare_ms.append(client.echo(bare))
            else:
                times_ms.append(client.ask(request))
    finally:
        child.terminate()
        child.wait()
        client.close()
        rclpy.try_shutdown()
    answered_ms = [elapsed_ms for elapsed_ms in times_ms if elapsed_ms is not None]
    return answered_ms, [elapsed_ms for elapsed_ms in bare_ms if elapsed_ms is not None], times_ms.count(None)


class Client:
    """The policy node's end: one thread for callbacks, and the caller's."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.signals import SignalHandlerOptions
        from std_msgs.msg import UInt8MultiArray

        from vla_ros.ros import qos
        from vla_ros.ros.dds import use_default_dds_profile
        from vla_ros.ros.managed import Spinner

        use_default_dds_profile()
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self._message = UInt8MultiArray
        self._node = rclpy.create_node("link_client")
        self._requests = self._node.create_publisher(UInt8MultiArray, REQUEST_TOPIC, qos.COMMAND)
        self._node.create_subscription(UInt8MultiArray, RESULT_TOPIC, self._on_result, qos.COMMAND)
        self._wake = threading.Condition()
        self._result: bytes | None = None
        self._spinner = Spinner(self._node)
        self._spinner.start()

    def wait_for_server(self) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while self._node.count_publishers(RESULT_TOPIC) == 0 or self._requests.get_subscription_count() == 0:
            if time.monotonic() > deadline_s:
                raise SystemExit(f"the second process was not seen within {PATIENCE_S:g} s")
            time.sleep(0.05)

    def ask(self, request: PiRequest) -> float | None:
        """How long one request and its result took, in ms; None where no result came within a second."""
        start_s = time.perf_counter()
        answer = self._exchange(encode_request(request))
        if answer is None:
            return None
        result = decode_result(answer)
        elapsed_ms = 1e3 * (time.perf_counter() - start_s)
        assert result.stamp_ns == request.stamp_ns, "a result of another request"
        return elapsed_ms

    def echo(self, payload: bytes) -> float | None:
        """The same for a message that the other end answers unread."""
        start_s = time.perf_counter()
        answer = self._exchange(payload)
        return None if answer is None else 1e3 * (time.perf_counter() - start_s)

    def _exchange(self, payload: bytes) -> bytes | None:
        with self._wake:
            self._result = None
        data = array("B")
        data.frombytes(payload)
        self._requests.publish(self._message(data=data))
        with self._wake:
            self._wake.wait_for(lambda: self._result is not None, timeout=1.0)
            return self._result

    def close(self) -> None:
        self._spinner.stop()
        self._node.destroy_node()

    def _on_result(self, msg: Any) -> None:
        with self._wake:
            self._result = bytes(msg.data)
            self._wake.notify()


def serve() -> None:
    """The model node's end without a model: a thread for callbacks, and one that reads and answers."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions
    from std_msgs.msg import UInt8MultiArray

    from vla_ros.ros import qos
    from vla_ros.ros.dds import use_default_dds_profile
    from vla_ros.ros.managed import Spinner

    use_default_dds_profile()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # or SIGTERM would end rclpy and not the process
    node = rclpy.create_node("link_server")
    wake = threading.Condition()
    waiting: list[bytes] = []

    def on_request(msg: Any) -> None:
        with wake:
            waiting[:] = [bytes(msg.data)]
            wake.notify()

    bare = bytes(NUM_RESULT_BYTES)
    results = node.create_publisher(UInt8MultiArray, RESULT_TOPIC, qos.COMMAND)
    node.create_subscription(UInt8MultiArray, REQUEST_TOPIC, on_request, qos.COMMAND)
    Spinner(node).start()
    gc.collect()
    gc.freeze()
    while True:
        with wake:
            wake.wait_for(lambda: waiting)
            data = waiting.pop()
        payload = array("B")
        payload.frombytes(bare if data.startswith(BARE) else encode_result(make_result(read_request(data))))
        results.publish(UInt8MultiArray(data=payload))


def read_request(data: bytes) -> PiRequest:
    message = decode_request(data)
    return PiRequest.from_tensors(message.tensors, message.metadata)


def make_result(request: PiRequest) -> PolicyResult:
    return PolicyResult(request.stamp_ns, DIGEST, request.noise, 0.0, {"prefix": 0.0, "suffix": 0.0})


def _time_ms(run: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start_s)


if __name__ == "__main__":
    sys.exit(main())
