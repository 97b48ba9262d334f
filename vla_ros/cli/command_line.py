"""Finds the subcommand, runs it, and turns what it raises into one line and an exit code.

A subcommand is one module: its docstring's first line is its help, ``add_arguments(parser)`` declares its arguments,
``run(args)`` does it and returns its ``Outcome``. Whatever is not in the standard library it imports in ``run``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from vla_ros.cli import (
    audit,
    bench,
    check,
    convert,
    demo,
    import_policy,
    new,
    parity,
    record,
    replay,
    respace,
    train,
    view,
)
from vla_ros.cli.output import write_json

COMMANDS = {
    "demo": (demo, "[ros,sim]"),
    "record": (record, "[ros,train]"),
    "replay": (replay, "[train]"),
    "train": (train, "[sim,train]"),
    "convert": (convert, "[train]"),
    "import": (import_policy, "[served]"),
    "respace": (respace, ""),
    "parity": (parity, ""),
    "audit": (audit, ""),
    "bench": (bench, "[ros,sim]"),
    "check": (check, "[ros]"),
    "view": (view, "[ros,view]"),
    "new": (new, ""),
}
"""Each subcommand's module and the pip extras that it needs."""
DONE, BELOW_THRESHOLD, UNUSABLE = 0, 1, 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns 0 for done and good, 1 for done and below its threshold, 2 for arguments or input that cannot be used.
    """
    args = _parser().parse_args(argv)
    try:
        outcome = args.run(args)
        write_json(args.json, outcome.figures)
        return DONE if outcome.is_good else BELOW_THRESHOLD
    except ValueError as error:
        from vla_ros.strict import one_line

        code, problem = UNUSABLE, one_line(error)
    except ModuleNotFoundError as error:
        install = f"install what this needs with pip install 'vla_ros{args.extras}'"
        code, problem = UNUSABLE, f"the Python package '{error.name}' is missing; {install}"
    except KeyboardInterrupt:
        code, problem = INTERRUPTED, "interrupted"
    print(f"vla_ros {args.command}: {problem}", file=sys.stderr)
    return code


def _version() -> str:
    try:
        return version("vla_ros")
    except PackageNotFoundError:
        return "of a source tree that is not installed"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(UNUSABLE, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vla_ros", description="Runs a Vision-Language-Action policy on a robot under ROS 2.")
    parser.add_argument("--version", action="version", version=f"vla_ros {_version()}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, extras) in COMMANDS.items():
        first_line = (module.__doc__ or "").splitlines()[0]
        subparser = subparsers.add_parser(name, help=first_line, description=first_line)
        module.add_arguments(subparser)
        subparser.add_argument("--json", metavar="FILE", help="also write the figures here, machine-readable")
        subparser.set_defaults(run=module.run, extras=extras)
    return parser
