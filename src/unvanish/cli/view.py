"""``unvanish view [RUNFILE|DIR]``: the runs of a folder as a page in the browser, followed while they are written."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from unvanish.cli.terminal import write

STATUS = "exit status: 0 when it is interrupted, 2 wrong usage or an error"


def add(commands: Any) -> None:
    """Describe the command."""
    view = commands.add_parser(
        "view", help="follow the runs of a folder on a page in the browser", epilog=STATUS,
        description="The runs of a folder on a page of this machine: the verdict now, every layer over the steps, what"
        " was found and when, and two runs against each other. The page only reads the files.",
    )  # fmt: skip
    view.add_argument(
        "place",
        metavar="RUNFILE|DIR",
        nargs="?",
        default="runs/",
        help="a run file, or a folder of them (default: runs/)",
    )
    view.add_argument("--port", type=int, default=0, metavar="N", help="port of the page (default: any free one)")
    view.add_argument("--no-browser", action="store_true", help="only say where the page is")
    view.set_defaults(run=_view)


def _view(args: argparse.Namespace) -> int:
    from unvanish.server import serve

    return serve(
        "view", args.port, browser=not args.no_browser, say=lambda line: write(sys.stderr, line), place=args.place
    )
