"""Serve the operator's page: see a robot drive in a browser, tell it what to do, stop it.

``--demo`` brings the simulated arm and both nodes up beside it. Ends on Ctrl-C, which a driving robot doesn't notice.
"""

from __future__ import annotations

import argparse
import json
import os
import webbrowser
from pathlib import Path

from vla_ros.cli.output import Outcome, check_range

LOCAL = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    parser.add_argument("robot", nargs="?", default="tabletop", metavar="ROBOT", help="robot file (default tabletop)")
    option("--demo", action="store_true", help="with the simulated arm and its policy")
    option("--open", action="store_true", help="open it in this machine's browser, where there is a screen")
    option("--policy", default="tiny_touch", metavar="DIR", help="policy directory of --demo (default tiny_touch)")
    option("--address", default=LOCAL, metavar="IP", help=f"listen here (default {LOCAL}); others need --token-file")
    option("--port", type=int, default=8080, metavar="N", help="port (default 8080); 0: any that is free")
    option(
        "--token-file", default="", metavar="FILE", help="lines of NAME TOKEN [read-only], mode 600: who may open it"
    )
    option("--read-only", action="store_true", help="nobody who opens the page may act, but for the stop")
    option("--namespace", default="", metavar="NS", help="namespace that the nodes run in (default none)")
    option("--use-sim-time", action="store_true", help="stamps are in the time of /clock, as in a simulation")
    option("--out", default="outputs/view", metavar="DIR", help="for the logs of --demo (outputs/view)")


def run(args: argparse.Namespace) -> Outcome:
    from contextlib import ExitStack

    from vla_ros.view.node import serve_page

    check_range("--port", args.port, 0, 65535)
    parameters = {
        "robot": args.robot,
        "view_address": args.address,
        "view_port": args.port,
        "view_token_file": args.token_file,
        "view_read_only": args.read_only,
        "use_sim_time": args.use_sim_time,
    }
    ros_args = [word for name, value in parameters.items() for word in ("-p", f"{name}:={json.dumps(value)}")]
    ros_args += ["-r", f"__ns:=/{args.namespace.strip('/')}"] if args.namespace.strip("/") else []
    with ExitStack() as stack:
        if args.demo:
            from vla_ros.view.demo import running_demo

            stack.enter_context(running_demo(args.robot, args.policy, Path(args.out) / "logs"))
        serve_page(["--ros-args", *ros_args], webbrowser.open if args.open and has_screen() else str)
    return Outcome({})


def has_screen() -> bool:
    """Whether a browser could open a window; without, some take the terminal."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
