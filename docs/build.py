"""Writes the generated pages and parts of pages. Without --example no network is built, measured or trained.

python docs/build.py             # rules, remedies, glossary, zoo; the lists in lab and pictures; parts of README.md
python docs/build.py --example   # also runs the check and the search of README.md, and writes down what they print
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unvanish import charts, cli, lab, records, report, trials, zoo
from unvanish.cli.problem_file import loaded_problem
from unvanish.lab.sources import SOURCES
from unvanish.remedies import Remedy, remedies
from unvanish.report import lab_text
from unvanish.report.formats import COMMANDS, find, formats, names
from unvanish.report.saved import FIELDS
from unvanish.rules import Rule, rules
from unvanish.rules.events import EVENTS
from unvanish.words import glossary

sys.path.insert(0, str(Path(__file__).parent))
import measured
import watching_costs
from written import anchor, page, picture_tag, prose, read, table

ROOT = Path(__file__).resolve().parents[1]
RECORDS = (
    report.Report, records.Finding, records.Evidence, records.LayerFlow, records.CallFlow, records.LossFacts,
    records.StepFacts, records.NextStep, records.RateTrial, records.OutputFacts, records.InputFacts, records.PairFacts,
    records.AlikeFacts, records.ZeroFacts, records.TimeFacts, records.UnusedFacts, records.Birth, records.Setting,
    records.PinnedFacts, records.Flow, trials.Fixes, records.Trial, lab.Outcome, lab.Column, lab.Check, lab.Drawing,
)  # fmt: skip
FIXED = "examples/deep_sigmoid.py"
SHOWN_TRIALS = 5
LEFT_OUT = "[more trials, what did not help, and what does not apply: left out here]"
CODES = (
    "Every finding has the code of the rule that speaks. Errors come first, then notes, both in the order of this"
    " table; only errors make a network unhealthy. `unvanish explain CODE` shows the same text."
)
REMEDIES = (
    "What [a search](fixing.md) can try: {count} changes, alone or in pairs. *Answers* are the findings that bring a"
    " remedy to the front; the others are tried behind them. `unvanish explain NAME` shows the same text."
)
WATCHED = "Found only while a training is watched"
WATCHED_NOTE = (
    "These compare a layer with its own past, and are notes: a change is no illness by itself. UV810 to UV813 are"
    " errors: they need no past."
)


def rules_page() -> str:
    """Every rule in the order of the report, with its documentation."""
    rows = [
        (f"[{rule.code}](#{anchor(_heading(rule))})", rule.verdict, " or ".join(rule.levels), rule.title)
        for rule in rules()
    ]
    return page(
        "Rules",
        CODES,
        table(("code", "verdict", "level", "what it finds"), rows),
        "## Verdicts",
        verdicts_table(),
        *(part for rule in rules() for part in (f"## {_heading(rule)}", *_rule(rule))),
        f"## {WATCHED}",
        WATCHED_NOTE,
        *(part for each in EVENTS.values() for part in (f"### {each.code} {each.title}", prose(each.doc))),
    )


def verdicts_table() -> str:
    """Every verdict and what it means."""
    return table(("verdict", "meaning"), ((word, glossary.GLOSSARY[word]) for word in glossary.VERDICT_WORDS))


def glossary_page() -> str:
    """Every field of every record, and the terms."""
    parts: list[str] = []
    described: set[str] = set()
    for record in RECORDS:
        fields = field_names(record)
        entries = [(f"`{field}`", glossary.field_entry(record.__name__, field) or "") for field in fields]
        described |= {*fields, *(f"{record.__name__}.{field}" for field in fields)}
        parts += [f"## {record.__name__}", prose(record.__doc__ or ""), table(("field", "meaning"), entries)]
    terms = [
        (key, entry)
        for key, entry in glossary.GLOSSARY.items()
        if key not in described and key not in glossary.VERDICT_WORDS
    ]
    return page(
        "Glossary",
        "The fields of the records that a report is made of, and the words it uses. In JSON the fields have the same"
        ' names; numbers that are not finite are the strings "-inf", "inf" and "nan", and null means not measured. The'
        " verdicts stand in [rules.md](rules.md).",
        "## Terms",
        table(("term", "meaning"), sorted(terms, key=lambda row: row[0].lower())),
        *parts,
    )


def field_names(record: Any) -> tuple[str, ...]:
    """The fields of a record or a data class, in their order; of a report those of its file, then its own."""
    if record is report.Report:
        return tuple(dict.fromkeys((*FIELDS, *record.__struct_fields__)))
    return tuple(getattr(record, "__struct_fields__", ()) or record.__dataclass_fields__)


def remedies_page() -> str:
    """Every remedy by kind, with its documentation and the networks that prove it."""
    rows = [
        (f"[`{each.slug}`](#{anchor(each.slug)})", each.kind, each.title, ", ".join(each.answers))
        for each in remedies()
    ]
    return page(
        "Remedies",
        REMEDIES.format(count=len(rows)),
        "Under each remedy stand networks of [the zoo](zoo.md) on which a test holds it to its word: a short training"
        " with the remedy is compared with one without. On those it *helps*, the score of the training batch is better"
        " by 0.2 or more with every seed tried; on those it *leaves as they are*, by no more than 0.1.",
        table(("remedy", "kind", "what it does", "answers"), rows),
        *(part for each in remedies() for part in (f"## {each.slug}", *_remedy(each))),
    )


def _remedy(each: Remedy) -> Iterable[str]:
    head, *rest = inspect.cleandoc(each.doc).replace("``", "`").split("\n\n")
    yield f"Kind `{each.kind}`: {each.title}."
    yield " ".join(head.split())
    labelled = re.split(r"\n(?=(?:What|Helps|Does not help|Source): )", "\n".join(rest))
    yield "\n".join("- " + re.sub(r"^([A-Z][a-z ]+):", r"**\1:**", " ".join(part.split())) for part in labelled)
    yield f"Tested: it helps {_names(each.cures_on)}; it leaves {_names(each.no_help_on)} as they are."


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def experiments_part() -> str:
    """The table of the experiments, then each with its settings."""
    rows = [
        (f"[`{each.name}`](#{each.name})", each.title, each.question, ", ".join(each.sources) or "–")
        for each in lab.experiments()
    ]
    sections = [part for each in lab.experiments() for part in (f"## {each.name}", *_experiment(each))]
    return "\n\n".join((table(("experiment", "title", "question", "documents"), rows), *sections))


def _experiment(each: lab.Experiment) -> Iterable[str]:
    yield f"**{each.title}{'' if each.title.endswith('?') else '.'}** {each.question}"
    yield prose(each.doc)
    if each.presets:
        lines = (f"- `--preset {preset.name}`: {preset.title}{_cited(preset.source)}" for preset in each.presets)
        yield "\n".join(("Presets:", "", *lines))
    rows = [
        (f"`--{parameter.name.replace('_', '-')}`", parameter.help, parameter.allowed,
         f"`{_default(parameter)}`" if _default(parameter) else "–")
        for parameter in each.settings
    ]  # fmt: skip
    yield table(("setting", "meaning", "takes", "default"), rows)


def _cited(source: str) -> str:
    return f" ({SOURCES[source]})" if source else ""


def _default(parameter: lab.Parameter) -> str:
    if isinstance(parameter.default, bool):
        return str(parameter.default).lower()
    return (
        ",".join(f"{each:g}" for each in parameter.default)
        if isinstance(parameter.default, tuple)
        else str(parameter.default)
    )


def pictures_part() -> str:
    """Every picture with its question, what it shows, and an example in the colours of the reader's page."""
    return "\n\n".join(part for each in charts.pictures() for part in _drawn(each))


def _drawn(each: charts.Picture) -> Iterable[str]:
    about = " ".join((inspect.getdoc(inspect.getmodule(each.template)) or "").split("\n\n")[0].split())
    yield f"### {each.name}"
    # where the text begins with a question of its own, one is enough
    told = re.sub(r"^(?:Which|How)[^:]*: (.)", lambda found: found[1].upper(), about)
    yield f"**{each.question}** {told}"
    yield picture_tag(f"pictures/{each.name}", about)


def formats_part() -> str:
    """The text formats of a report."""
    rows = [
        (f"`--format {each.name}`", f"`{each.suffix}`" if each.suffix else "–", prose(each.doc).replace("\n\n", " "))
        for each in formats()
    ]
    return table(("format", "suffix", "what it is"), rows)


def formats_of(command: str) -> str:
    """The formats of one command's answer as a list, text first."""
    lines = [f"- `--format {name}`: {prose(find(name, command).doc).partition(chr(10))[0]}" for name in names(command)]
    return "\n".join(("Formats:", "", *lines))


def zoo_page() -> str:
    """Every network of the zoo with the verdicts that are right for it."""
    networks = [zoo.get(name) for name in zoo.names()]
    rows = [(f"`{each.name}`", each.about, ", ".join(each.expects), ", ".join(each.codes) or "–") for each in networks]
    return page(
        "Zoo",
        f"{len(rows)} small networks whose state is known, by construction or by training them. `unvanish zoo NAME`"
        " checks one of them. *Accepted* are the verdicts that are right, *codes* the findings that name what is"
        " there.",
        table(("network", "what it is", "accepted", "codes"), rows),
    )


def example_output(readme: str) -> str:
    """What the first Python block of README.md prints."""
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    if code is None:
        raise SystemExit("README.md has no Python block")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code[1], "README.md", "exec"), {"__name__": "example"})
    return f"```text\n{printed.getvalue().rstrip()}\n```"


def search_output() -> str:
    """What the search of README.md prints, shortened."""
    with loaded_problem(ROOT / FIXED) as problem:
        return shortened(str(trials.fix(problem)))


def shortened(text: str) -> str:
    """The text answer of a search without what did not help or does not apply, and with the first trials only."""
    kept: list[str] = []
    for part in text.split("\n\n"):
        if part.startswith(("What did not help", "What does not apply")):
            continue
        lines = part.split("\n")
        if lines[0].split() == ["score", "as", "is", "steps"]:
            part = "\n".join([*lines[: 2 + SHOWN_TRIALS], LEFT_OUT])
        kept.append(part)
    return "```text\n" + "\n\n".join(kept).rstrip() + "\n```"


def lab_output(readme: str) -> str:
    """What the first command of README.md that names an experiment prints in a terminal of 100 columns."""
    command = next(line for line in re.findall(r"^unvanish (lab .*)$", readme, re.MULTILINE) if "--list" not in line)
    words = shlex.split(command, comments=True)
    given = vars(cli._parser(words).parse_args(cli.lab.joined(words)))
    parameters = (
        (key.removeprefix("parameter_"), value) for key, value in given.items() if key.startswith("parameter_")
    )
    outcome = lab.run(given["experiment"], **{name: value for name, value in parameters if value is not None})
    return f"```text\n{lab_text.render(outcome, 100).rstrip()}\n```"


def costs(data: Mapping[str, Any], title: str = "What it costs") -> str:
    """The measured costs of a check as a table under a title."""
    efforts = ("quick", "auto", "full")
    rows = [
        (
            name, measured.time(found["step_ms"]), *(f"{found[f'{e}_in_steps']:.1f}" for e in efforts),
            f"{found['auto_in_step_peaks']:.1f}",
        )
        for name, found in data["networks"].items()
    ]  # fmt: skip
    machine, versions = data["machine"], data["versions"]
    return "\n\n".join((
        f"## {title}",
        "A check, in training steps (forward, backward and optimizer step) of the same network on the same batch; in"
        " the last column its peak memory, in those of a training step.",
        table(("network", "one step", *(f"effort {e}" for e in efforts), "memory, auto"), rows),
        f"Measured on {machine['processor']}, {machine['threads']} threads, torch {versions['torch']}, by"
        " `benchmarks/check_cost.py`.",
    ))  # fmt: skip


def viewing_costs() -> str:
    """What it takes to open and to follow a run, as it was measured."""
    data = read("view")
    opened, followed, task = data["open"], data["follow"], data["follow"]["work_of_a_task_ms"]
    rows = [
        (f"open {opened['steps']:,} steps × {opened['layers']} layers", f"{opened['first_s']} s",
         f"{opened['processor_of_the_server_s']} s in the server, {opened['processor_of_the_page_s']} s in the page"),
        (f"an update with {followed['layers']} layers, {followed['updates_a_second']} a second", "",
         f"{followed['processor_of_the_server_ms_an_update']:.0f} ms in the server,"
         f" {followed['work_an_update_ms']:.0f} ms in the page"),
        ("the longest piece of work of the page, in a frame of its own", "", f"{task['most']:.0f} ms"),
    ]  # fmt: skip
    flush = followed["flush_ms"]
    return "\n\n".join((
        table(("what", "time", "processor time"), rows),
        f"The training writes a sample in {flush['without']} ms, and with the page open in {flush['with_the_page']} ms."
        f" Measured on {data['machine']['processor']}, {data['browser']}, with {data['load_of_the_machine']:.0f} other"
        " processes at work on the machine, by `benchmarks/view.py`.",
    ))  # fmt: skip


def runs_apart() -> str:
    """How often seeds were told apart, and another learning rate was found, as it was measured."""
    data = read("runs_apart")
    found, count, same = data["found_within_two_samples"], data["trainings"], data["identical_when_repeated"]
    return (
        f"Measured on {count} trainings of {data['steps']} steps, from an MLP to a GAN, by `benchmarks/runs_apart.py`:"
        f" of {data['pairs_of_seeds']} pairs of seeds {data['of_them_told_apart']} were told apart. Ten times the"
        " learning rate from half the steps on was found at that step, or within two samples of it, in"
        f" {found['faster']} of {count} with the same seed and in {found['faster, seed 1']} with another. Of {count}"
        f" repetitions {same} were identical."
    )


def filled(text: str, name: str, content: str) -> str:
    """The text with what stands between the markers of this name replaced; without markers, the text as it is."""
    between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return between.sub(lambda found: f"{found[1]}{content}{chr(10) if content else ''}{found[2]}", text)


def pages() -> dict[Path, str]:
    """Every generated file with what it should hold; what needs a training or a check is left as it is."""
    docs = ROOT / "docs"
    parts = {
        ROOT / "README.md": {"costs": lambda _: costs(read("check_cost")), "output:lab": lab_output},
        docs / "viewing.md": {
            "costs of viewing": lambda _: viewing_costs(),
            "runs apart": lambda _: runs_apart(),
        },
        docs / "lab.md": {"experiments": lambda _: experiments_part()},
        docs / "command-line.md": {f"formats of {each}": lambda _, each=each: formats_of(each) for each in COMMANDS},
        docs / "watching.md": {"costs": lambda _: watching_costs.costs()},
        docs / "sweeps.md": {"costs": lambda _: "\n\n".join(measured.sweeps(read("sweep_speed")))},
        docs / "versions.md": {"tried": lambda _: measured.versions(read("versions"))},
        docs / "pictures.md": {"pictures": lambda _: pictures_part(), "formats": lambda _: formats_part()},
    }
    found = {
        docs / "rules.md": rules_page(),
        docs / "remedies.md": remedies_page(),
        docs / "glossary.md": glossary_page(),
        docs / "zoo.md": zoo_page(),
        docs / "performance.md": page(
            "Performance", *measured.performance(costs(read("check_cost"), "A check"), viewing_costs())
        ),
        docs / "comparison.md": page("Comparison with other tools", *measured.comparison()),
    }
    for path, written in parts.items():
        text = path.read_text(encoding="utf-8")
        for name, write in written.items():
            text = filled(text, name, write(text))
        found[path] = text
    return found


def _heading(rule: Rule) -> str:
    return f"{rule.code} {rule.title}"


def _rule(rule: Rule) -> Iterable[str]:
    yield f"Verdict `{rule.verdict}`, level {' or '.join(rule.levels)}."
    yield prose(rule.doc)
    yield "Shown on: " + ", ".join(f"`{name}`" for name in rule.fires_on) + "."


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", action="store_true", help="run the check and the search of README.md too")
    options: Any = parser.parse_args(argv)
    for path, text in pages().items():
        if options.example and path.name == "README.md":
            text = filled(text, "output:example", example_output(text))
            text = filled(text, "output:fix", search_output())
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
