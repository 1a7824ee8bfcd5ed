"""``unvanish lab [EXPERIMENT]`` and ``unvanish theory ACTIVATION``: experiments to run, read and play with."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unvanish.cli.terminal import HEALTHY, Progress, entries, look_ahead, width, write, write_bytes
from unvanish.report.formats import names

if TYPE_CHECKING:
    from unvanish.lab import Experiment, Parameter
    from unvanish.lab.outcome import Outcome

EPILOG = "exit status: 0 done, 2 wrong usage or an error"


def add(commands: Any, words: Sequence[str]) -> None:
    """Describe the two commands; the settings of an experiment are options as soon as ``words`` name one."""
    experiment = _named(words)
    lab = commands.add_parser(
        "lab", help="experiments on vanishing and exploding gradients, here or as a page in the browser", epilog=EPILOG,
        description=experiment.question if experiment else
        "Without EXPERIMENT: a page in the browser. With one: its table and the sentence that matters.",
    )  # fmt: skip
    if experiment is None:
        settings_are = "one of those that --list names; unvanish lab NAME --help shows its settings"
        lab.add_argument("experiment", metavar="EXPERIMENT", nargs="?", help=settings_are)
        lab.add_argument("--list", action="store_true", help="list the experiments")
        lab.add_argument("--port", type=int, default=0, metavar="N", help="port of the page (default: any free one)")
        lab.add_argument("--no-browser", action="store_true", help="only say where the page is")
    else:
        lab.add_argument("experiment", metavar=experiment.name, help=experiment.title)
    _add_output(lab)
    if experiment is not None:
        settings = lab.add_argument_group(f"settings of {experiment.name}")
        if experiment.presets:
            listed = "; ".join(f"{each.name} ({each.title})" for each in experiment.presets)
            settings.add_argument("--preset", metavar="NAME", help=f"settings to start from: {listed}")
        for parameter in experiment.settings:
            option, text = f"--{parameter.name.replace('_', '-')}", _help(parameter)
            if isinstance(parameter.default, bool):
                settings.add_argument(
                    option,
                    dest=f"parameter_{parameter.name}",
                    action=argparse.BooleanOptionalAction,
                    default=None,
                    help=text,
                )
            else:
                settings.add_argument(option, dest=f"parameter_{parameter.name}", metavar="VALUE", help=text)
    lab.set_defaults(run=_lab)

    theory = commands.add_parser(
        "theory", help="what mean-field theory says about an activation and an initialisation", epilog=EPILOG,
        description="How signals and gradients of wide plain networks grow or shrink per layer, and how far they get.",
    )  # fmt: skip
    theory.add_argument("activation", metavar="ACTIVATION", help="such as sigmoid, tanh, relu or gelu")
    theory.add_argument("--depth", type=int, metavar="N", help="layers (default: 20)")
    theory.add_argument(
        "--weight-variance",
        type=float,
        metavar="X",
        help="variance of a weight times the fan-in: a row beside those of the common initialisations",
    )
    theory.add_argument(
        "--bias-variance", type=float, metavar="X", help="variance of a bias, with --weight-variance (default: 0)"
    )
    _add_output(theory)
    theory.set_defaults(run=_theory)


def joined(words: Sequence[str]) -> list[str]:
    """The words with ``--name -1,2`` written ``--name=-1,2``: a value that begins with a minus is no option."""
    pieces: list[str] = []
    for word in words:
        minus = re.match(r"-[\d.,]|-inf|-nan", word)
        if minus and pieces and pieces[-1].startswith("--") and "=" not in pieces[-1]:
            pieces[-1] += f"={word}"
        else:
            pieces.append(word)
    return pieces


def _named(words: Sequence[str]) -> Experiment | None:
    """The experiment that a command line names, which must come before its settings."""
    if list(words[:1]) != ["lab"] or not words[1:] or words[1].startswith("-"):
        return None
    from unvanish.lab import get

    return get(words[1])


def _help(parameter: Parameter) -> str:
    if isinstance(parameter.default, bool):  # the option and its --no- form say what it takes
        return f"{parameter.help} (default: {'yes' if parameter.default else 'no'})".replace("%", "%%")
    default = (
        ",".join(f"{each:g}" for each in parameter.default)
        if isinstance(parameter.default, tuple)
        else parameter.default
    )
    return f"{parameter.help}: {parameter.allowed} (default: {default})".replace("%", "%%")


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--format", choices=names("lab"), help="format of the answer (default: by the suffix of -o, else text)"
    )
    command.add_argument("-o", "--output", metavar="FILE", help="write to FILE, in the format of its suffix")


def _lab(args: argparse.Namespace) -> int:
    if getattr(args, "list", False):
        from unvanish.lab import experiments

        write(sys.stdout, entries([(each.name, each.title) for each in experiments()]))
        return HEALTHY
    if args.experiment is None:
        from unvanish.server import serve

        return serve("lab", args.port, browser=not args.no_browser, say=lambda line: write(sys.stderr, line))
    from unvanish.lab import run

    given = {
        name.removeprefix("parameter_"): value
        for name, value in vars(args).items()
        if name.startswith("parameter_") and value is not None
    }
    preset = getattr(args, "preset", None) or ""
    return _answer(args, lambda progress: run(args.experiment, progress=progress, preset=preset, **given))


def _theory(args: argparse.Namespace) -> int:
    from unvanish.lab.initialisations import theory_page

    named = ("depth", "weight_variance", "bias_variance")
    given = {name: value for name in named if (value := getattr(args, name)) is not None}
    return _answer(args, lambda progress: theory_page(args.activation, **given))


def _answer(args: argparse.Namespace, work: Callable[[Callable[[float, str], None]], Outcome]) -> int:
    """Run it with its progress shown, and print or save what came out."""
    from unvanish.report import write_text
    from unvanish.report.formats import find, named_by

    chosen = args.format
    if args.output is not None:
        look_ahead(Path(args.output))
        chosen = chosen or named_by(Path(args.output), "lab", "an outcome").name
    progress = Progress()
    try:
        outcome = work(progress)
    finally:
        progress.clear()
    if chosen in (None, "text") and args.output is None:
        from unvanish.report.lab_text import render

        write(sys.stdout, render(outcome, width()))
        return HEALTHY
    assert chosen is not None  # -o names a format
    data = find(chosen, "lab").write(outcome)
    if args.output is not None:
        write_text(Path(args.output), data)
        write(sys.stderr, f"unvanish: {outcome.sentence}")
    elif isinstance(data, bytes):
        write_bytes(data)
    else:
        write(sys.stdout, data)
    return HEALTHY
