"""``unvanish run SCRIPT.py`` and ``unvanish show RUNFILE``: a training that does not know of us, watched."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unvanish.cli.check import deliver
from unvanish.cli.places import home_of
from unvanish.cli.terminal import (
    FAILED,
    FOUND,
    HEALTHY,
    INTERRUPTED,
    colorful,
    format_of,
    look_ahead,
    speaks_unicode,
    width,
    write,
)
from unvanish.records import UnvanishError
from unvanish.report.formats import names

if TYPE_CHECKING:
    from unvanish.watching.run import Run

RUN_STATUS = "exit status: the script's own; 1 where --fail-on error and a finding of level error; 2 wrong usage"
SHOW_STATUS = "exit status: 0; 1 where --fail-on error and a finding of level error; 2 wrong usage or an error"


def add(commands: Any) -> None:
    """Describe the two commands."""
    run = commands.add_parser(
        "run", help="run a training script, and watch what it trains", epilog=RUN_STATUS,
        description="Run a training script that does not know of unvanish, and watch what it trains.",
        usage="unvanish run [--every K] [-o RUNFILE] [--check-every K] [--stop-after N] [--fail-on error|never]"
        " [-m MODULE | SCRIPT.py] [ARGS …]",
    )  # fmt: skip
    run.add_argument("--every", type=_positive, default=10, metavar="K", help="sample every K-th step (default: 10)")
    run.add_argument("-o", "--output", metavar="RUNFILE", help="the run file (default: a new one in runs/)")
    run.add_argument("--check-every", type=_positive, metavar="K", help="a full check at every K-th step")
    run.add_argument(
        "--stop-after", type=_positive, metavar="N", help="stop after N steps, with a full check at the last"
    )
    run.add_argument(
        "--fail-on", choices=("error", "never"),
        help="exit with 1 on a finding of level error (default: never; with --stop-after: error)",
    )  # fmt: skip
    run.add_argument("-m", dest="module", action="store_true", help="what follows is a module, as in python -m")
    run.add_argument("script", metavar="SCRIPT.py", help="the script, or with -m the module")
    run.add_argument("words", metavar="ARGS", nargs=argparse.REMAINDER, help="arguments of the script")
    run.set_defaults(run=_run)

    show = commands.add_parser(
        "show", help="show what a run file holds", epilog=SHOW_STATUS,
        description="The report of a run, from its file, also while it is being written.",
    )  # fmt: skip
    show.add_argument("file", metavar="RUNFILE", help="what unvanish run or unvanish.watch wrote; or its folder")
    show.add_argument("--follow", action="store_true", help="show it again whenever a step was sampled, until it ends")
    show.add_argument("--against", metavar="RUNFILE", help="compare with another run")
    show.add_argument("--fail-on", choices=("error", "never"), default="never", help="exit with 1 on such a finding")
    show.add_argument("--format", choices=names("check"), help="(default: by the suffix of -o, else text)")
    show.add_argument("-o", "--output", metavar="FILE", help="write to FILE, not to standard output")
    show.set_defaults(run=_show)


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of steps, 1 or more")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    from unvanish.watching.run import load_run
    from unvanish.watching.script import run_script

    if args.output is not None:
        look_ahead(Path(args.output))
    ending = run_script(
        args.script, args.words, module=args.module, every=args.every, check_every=args.check_every,
        to=args.output or "runs/", stop_after=args.stop_after,
    )  # fmt: skip
    run = load_run(ending.run.path)
    write(sys.stderr, _summary(run, args.script, ending.why))
    if ending.status:
        return ending.status
    fails = args.fail_on or ("error" if args.stop_after else "never")
    return FOUND if fails == "error" and _has_errors(run) else HEALTHY


def _summary(run: Run, script: str, why: str) -> str:
    """One sentence, the report of the last sampled step, and the path."""
    made = int(run.facts.get("steps", 0))
    if failed := run.facts.get("failed"):
        return f"unvanish: watching {script} ended early by an error of its own ({failed}); {run.path}"
    if not run.steps and "no known parent package" in why and (home := home_of(Path(script))).module:
        folder = home.first[0].parent if home.first[0].name == "src" else home.first[0]
        return f"unvanish: {script} is a part of a package; in {folder}, write: unvanish run -m {home.module}"
    if not run.steps:
        return (
            f"unvanish: {script} made no optimizer step that was seen, so nothing was sampled"
            f"{f' ({why})' if why else ''}; is its optimizer a torch.optim.Optimizer, and does the script train in this"
            " process?"
        )
    head = f"unvanish: {made} steps of {script}, {len(run.steps)} sampled{f', {why}' if why else ''}"
    return f"{head}\n\n{_text(run, sys.stderr)}\n\n{run.path}"


def _text(run: Run, stream: Any) -> str:
    from unvanish.report.text import render

    return render(run.last_report(), width(), colorful(), speaks_unicode(stream))


def _has_errors(run: Run) -> bool:
    return not run.last_report().healthy


def _show(args: argparse.Namespace) -> int:
    from unvanish.report.formats import suffixes
    from unvanish.watching.run import load_run

    if args.output is not None:
        look_ahead(Path(args.output))
    args.format = format_of(args.format, args.output, suffixes())
    path = _latest(Path(args.file))
    if args.against is not None:
        from unvanish.watching.comparing import comparison

        write(sys.stdout, comparison(load_run(path), load_run(_latest(Path(args.against)))))
    elif args.follow:
        return _follow(path, args)
    else:
        deliver(args, load_run(path).last_report())
    return FOUND if args.fail_on == "error" and _has_errors(load_run(path)) else HEALTHY


def _latest(path: Path) -> Path:
    """The run file itself, or the newest of a folder."""
    if not path.is_dir():
        return path
    runs = sorted(path.glob("*.unvanish"), key=lambda each: each.stat().st_mtime)
    if not runs:
        raise UnvanishError(f"there is no run file (*.unvanish) in {str(path)!r}")
    return runs[-1]


def _follow(path: Path, args: argparse.Namespace) -> int:
    """The report again after each new sample; ends with the run, or with Ctrl-C."""
    from unvanish.watching.run import load_run

    last = None
    try:
        while True:
            run = load_run(path)
            step = run.steps[-1] if run.steps else None
            if step is not None and step != last:
                last = step
                if sys.stdout.isatty():
                    sys.stdout.write("\x1b[H\x1b[2J")
                write(sys.stdout, f"step {step}\n\n{_text(run, sys.stdout)}\n")
            if "ended" in run.facts:
                return FOUND if args.fail_on == "error" and run.steps and _has_errors(run) else HEALTHY
            if not _alive(run):
                write(sys.stderr, "unvanish: the process of this run is gone, and did not end its file")
                return FAILED
            time.sleep(0.5)
    except KeyboardInterrupt:
        return INTERRUPTED


def _alive(run: Run) -> bool:
    """Whether the writing process is still there, as far as this machine can tell."""
    import os

    try:
        os.kill(int(run.facts.get("process", 0)), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
