"""``unvanish run SCRIPT.py`` and ``unvanish show RUNFILE``: a training that does not know of us, watched."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unvanish.cli.check import deliver
from unvanish.cli.home import home_of, notebook
from unvanish.cli.terminal import (
    FAILED,
    FOUND,
    HEALTHY,
    INTERRUPTED,
    PICTURE,
    colorful,
    format_of,
    look_ahead,
    pictures_ahead,
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
        usage="unvanish run [--every K] [-o RUNFILE] [--check-every K] [--stop-after N]\n"
        f"{'':20}[--fail-on error|never] [-m MODULE | SCRIPT.py] [ARGS …]",
    )  # fmt: skip
    run.add_argument("--every", type=_positive, default=10, metavar="K", help="sample every K-th step (default: 10)")
    run.add_argument("-o", "--output", metavar="RUNFILE", help="the run file, or a folder for one (default: runs/)")
    run.add_argument("--check-every", type=_positive, metavar="K", help="check the batch of every K-th step, too")
    run.add_argument("--stop-after", type=_positive, metavar="N", help="stop after N steps and check the last batch")
    run.add_argument(
        "--fail-on", choices=("error", "never"),
        help="exit with 1 on a finding of level error (default: never; with --stop-after: error)",
    )  # fmt: skip
    run.add_argument("-m", dest="module", action="store_true", help="what follows is a module, as in python -m")
    run.add_argument("script", metavar="SCRIPT.py", help="the script, or with -m the module")
    words = run.add_argument("words", metavar="ARGS", nargs=argparse.REMAINDER, help="arguments of the script")
    words.required = False  # or argparse would name them beside a script that is missing
    run.set_defaults(run=_run)

    show = commands.add_parser(
        "show", help="show what a run file holds", epilog=SHOW_STATUS,
        description="The report of a run, from its file, also while it is being written.",
    )  # fmt: skip
    show.add_argument("file", metavar="RUNFILE", help="what unvanish run or unvanish.watch wrote; or its folder")
    show.add_argument("--follow", action="store_true", help="show it again whenever a step was sampled, until it ends")
    show.add_argument(
        "--against", metavar="RUNFILE", help="where two runs part beyond their noise (text, json)"
    )  # fmt: skip
    show.add_argument(
        "--fail-on",
        choices=("error", "never"),
        default="never",
        help="exit with 1 on a finding of level error (default: never)",
    )
    show.add_argument(
        "--format", choices=names("check"), help="format of the report (default: by the suffix of -o, else text)"
    )
    show.add_argument(
        "--json", dest="format", action="store_const", const="json", help="the same as --format json, for programs"
    )
    show.add_argument("-o", "--output", metavar="FILE", help="write to FILE, not to standard output")
    show.set_defaults(run=_show)


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of steps, 1 or more")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    from unvanish.watching.run import load_run
    from unvanish.watching.script import run_script

    if args.script.endswith(".ipynb"):
        raise UnvanishError(notebook(args.script))
    ending = run_script(
        args.script, args.words, module=args.module, every=args.every, check_every=args.check_every,
        to=args.output or "runs/", stop_after=args.stop_after,
    )  # fmt: skip
    if not ending.ours:
        return ending.status
    run = load_run(ending.run.path)
    write(sys.stderr, _summary(run, args.script, ending.why, ending.status))
    if ending.status:
        return ending.status
    fails = args.fail_on or ("error" if args.stop_after else "never")
    return FOUND if fails == "error" and _has_errors(run) else HEALTHY


def _summary(run: Run, script: str, why: str, status: int) -> str:
    """One sentence, the report of the last sampled step, and the path."""
    made = int(run.facts.get("steps", 0))
    if failed := run.facts.get("failed"):
        return f"unvanish: watching {script} ended early ({failed}); {run.path}"
    if not run.steps and "no known parent package" in why and (home := home_of(Path(script))).module:
        folder = home.first[0].parent if home.first[0].name == "src" else home.first[0]
        return f"unvanish: {script} is a part of a package; in {folder}, write: unvanish run -m {home.module}"
    if not run.steps and status:
        ended = f"was stopped by an error of its own ({why})" if why else f"ended itself with exit status {status}"
        return (
            f"unvanish: {script} {ended} before its first optimizer step, so nothing was sampled; what it said stands"
            " above, and its arguments go behind its name"
        )
    if not run.steps and made:
        from unvanish.watching.reporting import nothing_sampled

        return f"unvanish: nothing was sampled of {script}: {nothing_sampled(made)}"
    if not run.steps:
        return (
            f"unvanish: {script} made no optimizer step that was seen, so nothing was sampled; is its optimizer a"
            " torch.optim.Optimizer, and does the script train in this process?"
        )
    head = f"unvanish: {made} steps of {script}, {len(run.steps)} sampled{f', {why}' if why else ''}"
    return (
        f"{head}\n\n{_text(run, sys.stderr)}\n\nunvanish: the run is in {run.path}; unvanish view shows it step by step"
    )


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
    path = _latest(Path(args.file))
    args.format = format_of(args.format, args.output, {**suffixes(), **PICTURE})
    pictures_ahead(args.format)
    if args.against is not None:
        _compare(path, _latest(Path(args.against)), args)
    elif args.follow:
        return _follow(path, args)
    else:
        deliver(args, load_run(path).last_report())
    return FOUND if args.fail_on == "error" and _has_errors(load_run(path)) else HEALTHY


def _compare(path: Path, other: Path, args: argparse.Namespace) -> None:
    """Where the two runs part, as text or JSON."""
    from unvanish.report import write_text
    from unvanish.watching.against import against
    from unvanish.watching.run import load_run

    if args.format not in (None, "text", "json"):
        raise UnvanishError(f"show --against --format {args.format}: two runs are compared as text or json")
    if args.follow:
        raise UnvanishError("show --against --follow: two runs are compared as they are now; leave out one of the two")
    compared = against(load_run(path), load_run(other))
    said = compared.to_json() if args.format == "json" else str(compared)
    if args.output is None:
        write(sys.stdout, said)
    else:
        write_text(Path(args.output), said)


def _latest(path: Path) -> Path:
    """The run file itself, or the newest of a folder."""
    if not path.is_dir():
        return path
    runs = sorted(path.glob("*.unvanish"), key=lambda each: each.stat().st_mtime)
    if not runs:
        raise UnvanishError(f"there is no run file (*.unvanish) in {str(path)!r}")
    if len(runs) > 1:
        write(sys.stderr, f"unvanish: {runs[-1]}, the newest of {len(runs):,} runs")
    return runs[-1]


def _follow(path: Path, args: argparse.Namespace) -> int:
    """The report again after each new sample; ends with the run, or with Ctrl-C."""
    from unvanish.watching.alive import alive
    from unvanish.watching.run import load_run

    if args.output is not None or args.format not in (None, "text"):
        raise UnvanishError("show --follow writes text, and no file; leave out one of the two")
    last, gone = None, False
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
                if not run.steps:
                    write(sys.stderr, "unvanish: this run has ended before a step was sampled")
                return FOUND if args.fail_on == "error" and run.steps and _has_errors(run) else HEALTHY
            if gone:
                said = "before a step was sampled" if last is None else f"its last sample is that of step {last}"
                write(sys.stderr, f"unvanish: the process of this run is gone, and did not end its file; {said}")
                return FAILED
            gone = not alive(run.facts)  # it may have ended its file since that was read: once more, then
            if not gone:
                time.sleep(0.5)
    except KeyboardInterrupt:
        return INTERRUPTED
