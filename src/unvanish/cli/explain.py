"""``unvanish explain CODE|VERDICT|TERM``: what the words of a report mean."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from unvanish.cli.terminal import HEALTHY, write


def add(commands: Any) -> None:
    """Describe the command."""
    command = commands.add_parser(
        "explain", help="what a code, a verdict or a term means",
        description="What a code (UV101), a verdict (vanished), a remedy, a term or a field of a report means.",
    )  # fmt: skip
    command.add_argument("topic", metavar="CODE|VERDICT|TERM", nargs="*", help="without it: what can be explained")
    command.set_defaults(run=_explain)


def _explain(args: argparse.Namespace) -> int:
    from unvanish.report.explain import explain

    write(sys.stdout, explain(" ".join(args.topic)))
    return HEALTHY
