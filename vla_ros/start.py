"""The programs that ROS starts, and children that end with who started them. Loads nothing at first: a node takes
seconds to import, and what would end it meanwhile must not be lost."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from functools import partial
from importlib import import_module

PARENT = "VLA_ROS_PARENT"
"""Set by our launch files to the process id of launch, with which their nodes end."""
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def end_with_parent() -> None:
    """The calling process gets SIGTERM when its parent ends, even by SIGKILL, which leaves nobody to do it; for a child
    before its program (``preexec_fn``)."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def begin_as_node() -> None:
    """As ``end_with_parent``, and an interrupt is held until the node handles it (``ros.signals``)."""
    end_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _run(module: str) -> int | None:
    """Its ``main``. Python raises KeyboardInterrupt wherever it is, which what is being imported may swallow: until the
    node has handlers of its own it ends at once, for nobody was promised anything yet."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    _follow_launch()
    return import_module(module).main()


def _follow_launch() -> None:
    parent = os.environ.get(PARENT, "")
    if not parent.isdecimal():
        return
    end_with_parent()
    try:
        os.kill(int(parent), 0)
    except ProcessLookupError:
        sys.exit(f"what started this node (process {parent}) has ended")


policy_node = partial(_run, "vla_ros.nodes.policy_node")
model_node = partial(_run, "vla_ros.nodes.model_node")
sim_node = partial(_run, "vla_ros.sim.node")
fake_driver_node = partial(_run, "vla_ros.sim.fake_driver_node")
teleop_keyboard = partial(_run, "vla_ros.teleop.keyboard")
teleop_joystick = partial(_run, "vla_ros.teleop.joystick")
task_node = partial(_run, "vla_ros.tasks.node")
player = partial(_run, "vla_ros.record.player")
view_node = partial(_run, "vla_ros.view.node")


def vla_ros() -> int:
    """The command line, which ends by KeyboardInterrupt."""
    _follow_launch()
    return import_module("vla_ros.cli").main()
