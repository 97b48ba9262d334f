"""``view_node``: the operator's page beside a robot."""

from __future__ import annotations

import sys
from collections.abc import Callable

from vla_ros.ros.managed import spinning
from vla_ros.ros.signals import ros_running, stop_on_signals
from vla_ros.strict import one_line


def serve_page(args: list[str] | None = None, show: Callable[[str], object] = lambda url: None) -> None:
    """Run the node until it is interrupted; ``show`` gets the page's address once it is there. Raises ValueError, in
    one line, where it cannot start."""
    stop = stop_on_signals()
    with ros_running(args):
        from vla_ros.view.operator import ViewNode

        node = ViewNode()
        with spinning(node):
            node.run(stop, show)


def main(args: list[str] | None = None) -> int:
    """As ``serve_page``; exits 2 with one line where it cannot start."""
    try:
        serve_page(args)
    except ValueError as error:
        return _refuse(one_line(error))
    except ModuleNotFoundError as error:
        return _refuse(f"the Python package '{error.name}' is missing; install it with: pip install 'vla_ros[view]'")
    return 0


def _refuse(line: str) -> int:
    print(f"view_node: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
