"""Our share of an inference by a policy server: from a request with two pictures of 224x224 to its actions, over
loopback, less what the server itself takes. Exits 1 where its p99 is above the limit. Beside it, in turn, as many bytes
over a bare socket to a thread that sleeps as long: what the machine itself takes just then.

    python benchmarks/served.py [--runs 2000] [--infer-ms 20] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import struct
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test" / "unit"))

import numpy as np
from served_helpers import pack, unpack
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

MAX_P99_MS = 5.0
NUM_WARM_UP_RUNS = 50
ROBOT, KEYS, SPACE = "ur5e_robotiq", "ur5e", "ur5e_served"
HORIZON, DIM = 50, 7
NUM_BYTES = 2 * 224 * 224 * 3
OWN_S = struct.Struct("d")


def run_server(pipe: Connection, infer_ms: float) -> None:
    """Answer after ``infer_ms``, in one thread, as openpi's does. Tells its ports, and at the end of each connection
    how long each answer took it, in s: from a request that has come whole to its answer's first byte."""

    async def handle(connection: ServerConnection) -> None:
        own_s = []
        await connection.send(pack({}))
        try:
            async for data in connection:
                begun_s = time.perf_counter()
                seen = unpack(data)
                time.sleep(1e-3 * infer_ms)
                state = np.concatenate([seen["joints"], seen["gripper"]])
                answer = pack({"actions": np.tile(state, (HORIZON, 1))})
                own_s.append(time.perf_counter() - begun_s)
                await connection.send(answer)
        except ConnectionClosed:
            pass
        pipe.send(own_s)

    async def run() -> None:
        async with serve(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
            pipe.send((server.sockets[0].getsockname()[1], bare.getsockname()[1]))
            await server.serve_forever()

    bare = socket.create_server(("localhost", 0))
    threading.Thread(target=echo, args=(bare, infer_ms), daemon=True).start()
    asyncio.run(run())


def echo(listening: socket.socket, infer_ms: float) -> None:
    """For every ``NUM_BYTES`` that come over one connection, after ``infer_ms``, how long it took, in s."""
    with listening.accept()[0] as connection:
        while read_whole(connection, NUM_BYTES):
            begun_s = time.perf_counter()
            time.sleep(1e-3 * infer_ms)
            connection.sendall(OWN_S.pack(time.perf_counter() - begun_s))


def read_whole(connection: socket.socket, num_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < num_bytes:
        part = connection.recv(num_bytes - len(data))
        if not part:
            return b""
        data += part
    return bytes(data)


def ask_bare(connection: socket.socket) -> float:
    """The round trip less what the other end took, in ms."""
    begun_s = time.perf_counter()
    connection.sendall(bytes(NUM_BYTES))
    (own_s,) = OWN_S.unpack(read_whole(connection, OWN_S.size))
    return 1e3 * (time.perf_counter() - begun_s - own_s)


def measure(ports: tuple[int, int], pipe: Connection, num_runs: int, folder: Path) -> dict[str, np.ndarray]:
    """Times in ms by name, one for each run."""
    import torch

    from vla_ros.execution.runner import PolicyRunner
    from vla_ros.policies.directory import load_policy
    from vla_ros.policies.files import open_policy
    from vla_ros.policies.served.recording import ServerAnswers, import_served
    from vla_ros.robot import load_robot
    from vla_ros.share import robot_file

    torch.set_num_threads(1)
    import_served(
        f"ws://localhost:{ports[0]}", folder / "policy", load_robot(robot_file(ROBOT)), ServerAnswers(KEYS, SPACE)
    )
    pipe.recv()
    loaded, observation = load_policy(folder / "policy", "cpu"), open_policy(folder / "policy").golden.observation
    runner = PolicyRunner(loaded.policy, loaded.device)
    bare = socket.create_connection(("localhost", ports[1]))
    bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    round_trip_ms, preprocessing_ms, bare_ms = [], [], []
    for _ in range(NUM_WARM_UP_RUNS + num_runs):
        begun_s = time.perf_counter()
        request = loaded.processor.process(observation)
        asked_s = time.perf_counter()
        runner.run(request)
        round_trip_ms.append(1e3 * (time.perf_counter() - asked_s))
        preprocessing_ms.append(1e3 * (asked_s - begun_s))
        bare_ms.append(ask_bare(bare))
    runner.close()
    own_ms = 1e3 * np.array(pipe.recv()[-num_runs:])
    whole = {"round trip": round_trip_ms, "preprocessing": preprocessing_ms, "bare socket": bare_ms}
    times = {name: np.array(values[-num_runs:]) for name, values in whole.items()}
    return times | {"server": own_ms, "our share": times["round trip"] - own_ms}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000, metavar="N", help="inferences (default 2000)")
    parser.add_argument("--infer-ms", type=float, default=20.0, metavar="MS", help="the server takes (default 20)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    pipe, its_pipe = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=run_server, args=(its_pipe, args.infer_ms), daemon=True
    )
    server.start()
    with tempfile.TemporaryDirectory() as folder:
        times_ms = measure(pipe.recv(), pipe, args.runs, Path(folder))
    server.terminate()
    figures: dict[str, Any] = {}
    for name, values in times_ms.items():
        figures[name] = dict(zip(("p50", "p99", "max"), np.quantile(values, (0.5, 0.99, 1.0)).tolist(), strict=True))
        print(f"{name:14}" + "  ".join(f"{which} {value:6.2f} ms" for which, value in figures[name].items()))
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if figures["our share"]["p99"] <= MAX_P99_MS else 1


if __name__ == "__main__":
    sys.exit(main())
