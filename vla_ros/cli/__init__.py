"""The command line, ``vla_ros``."""

from vla_ros.cli.command_line import main

__all__ = ["main"]
