"""The pages of numbers: what everything costs, and how often other tools are right, read off benchmarks/results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import watching_costs
from written import read, table


def performance(check: str, viewing: str) -> Iterable[str]:
    """The parts of the page of costs; ``check`` and ``viewing``: those of a check and of the page of a run."""
    yield (
        "Every number of this page is read from `benchmarks/results` when the page is built. The program that wrote"
        " it there stands below it. The machines were shared with others: ratios and processor time mean more than"
        " seconds."
    )
    yield check
    yield "## Watching a training"
    yield watching_costs.costs()
    yield "## Sweeps"
    yield from sweeps(read("sweep_speed"))
    yield "## Several processes"
    yield from _processes(read("sweep_ray"))
    yield from _two_searching(read("fix_processes"))
    yield "## Memory over time"
    yield from _memory(read("memory"))
    yield "## The page of a run"
    yield viewing
    yield "## The page of the lab"
    yield from _lab_page(read("lab_page"))
    yield "## Writing a report"
    yield from _writers(read("writers"))
    yield "## Starting"
    yield from _starting(read("start_up"))


def time(milliseconds: float) -> str:
    """A time in the unit that suits it: "172.7 µs", "1.9 ms", "1.0 s"."""
    if milliseconds < 1:
        return f"{1000 * milliseconds:.1f} µs"
    return f"{milliseconds:.1f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def _by(data: Mapping[str, Any]) -> str:
    """Where and with what a result was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items() if name != "unvanish")
    name = data["command"].split()[1]
    machine = data["machine"]
    threads = f"{machine['threads']} thread{'s' if machine['threads'] != 1 else ''}"
    return f"Measured on {machine['processor']}, {threads}, {versions}, by `{name}`."


def sweeps(data: Mapping[str, Any]) -> Iterable[str]:
    """What a network of a sweep takes, beside loops over modules."""
    yield (
        "Processor time of one network of a sweep. Beside it, how many times as long a loop takes that builds each"
        " network and runs it forward and backward, and either keeps nothing (*bare*) or works out *the same"
        " numbers*:"
    )
    rows = [
        (
            row["name"], row["of"], time(row["stacked_us"] / 1000),
            *(f"{row['times'][kind]:,.0f}" if kind in row["times"] else "–" for kind in ("bare", "same numbers")),
        )
        for row in data["rows"]
    ]  # fmt: skip
    yield table(("networks", "of", "one network", "bare loop, times as long", "same numbers, times as long"), rows)
    yield _by(data)


def _processes(data: Mapping[str, Any]) -> Iterable[str]:
    (sweep,) = (row for row in data["rows"] if row["what"] == "scaling of a sweep")
    yield (
        f"With two processes on two cores a sweep of {sweep['networks']:,} networks took {min(sweep['two_s']):.0f} s"
        f" in place of {min(sweep['one_s']):.0f} s, {sweep['times']:.2f} times as fast."
    )
    yield _by(data)


def _memory(data: Mapping[str, Any]) -> Iterable[str]:
    yield f"{data['unit']} of the process after so many checks of one network, or so many watched steps:"
    for what, found in (("checks", data["checks"]), ("watched steps", data["steps"])):
        heads = (what, *(f"{int(count):,}" for count in found))
        yield table(heads, [(data["unit"], *(f"{size:.1f}" for size in found.values()))])
    yield _by(data)


def _two_searching(data: Mapping[str, Any]) -> Iterable[str]:
    yield (
        "A search over a deep network of sigmoids: how long its schedule is over two processes with a free core each,"
        " by the processor time of every part of it, so that nothing else on the machine counts. The least is half of"
        " all processor time. In the last column what real processes took: the wall time of two over that of"
        " one, the median of a few pairs."
    )
    rows = [
        (
            f"{row['steps']:,}", f"{row['one_s']:.1f} s", f"{row['schedule_s']:.1f} s", f"{row['share']:.2f}",
            f"{row['least_share']:.2f}", f"{row['wall_share']:.2f}",
        )
        for row in data["rows"]
    ]  # fmt: skip
    columns = ("steps of a training", "one process", "two processes", "share of the time", "the least", "by the clock")
    yield table(columns, rows)
    if "at_once" in data:
        yield (
            f"No schedule saves what two processes take from each other: two plain trainings at once, one a core, take"
            f" {data['at_once']:.2f} times as long as one alone, so that no share by the clock is below"
            f" {data['at_once'] / 2:.2f}."
        )
    yield _by(data)


def _lab_page(data: Mapping[str, Any]) -> Iterable[str]:
    yield (
        f"From the command to the address {data['command_to_address_s']:.1f} s, from there to a page that can be used"
        f" {data['ready_s']:.1f} s. From a move of a slider to the new picture, over {data['events']} moves:"
    )
    rows = [
        (depth, *(f"{found[key]:.0f} ms" for key in ("median", "p95", "most")))
        for depth, found in data["slider_to_paint_ms"].items()
    ]
    yield table(("layers", "median", "95% within", "most"), rows)
    yield _by(data)


def _writers(data: Mapping[str, Any]) -> Iterable[str]:
    yield "Seconds, for reports of 2,000 and 4,000 layers of three kinds, and for one layer with a very long name:"
    names = sorted({name for sizes in data["seconds"].values() for found in sizes.values() for name in found})
    rows = [
        (f"{kind}, {int(size):,}", *(f"{found[name]:.3f}" for name in names))
        for kind, sizes in data["seconds"].items()
        for size, found in sizes.items()
    ]
    yield table(("report", *names), rows)
    yield _by(data)


def _starting(data: Mapping[str, Any]) -> Iterable[str]:
    rows = [
        (f"`{name}`", f"{found['median_ms']:.0f} ms", f"{found['beyond_python_ms']:.0f} ms")
        for name, found in data["commands"].items()
    ]
    yield table(("command", "median", "beyond Python's own start"), rows)
    yield "Neither torch nor numpy is imported by these. " + _by(data)


def versions(data: Mapping[str, Any]) -> str:
    """What passed with each Python and each torch that was tried."""
    rows = [
        (
            row["python"], row["torch"],
            f"{row['passed']:,} of {row['passed'] + row['failed']:,}" if row["failed"] else f"all {row['passed']:,}",
            row["tried"],
        )
        for row in data["rows"]
    ]  # fmt: skip
    return table(("Python", "torch", "tests that passed", "tried on"), rows)


def comparison() -> Iterable[str]:
    """The parts of the page of other tools."""
    data = read("verdicts")
    summary, rivals = data["summary"], data["rivals"]
    ours = summary["checkers"]["unvanish"]
    yield (
        "What others say about the same network, batch and optimizer. Compared are what everybody writes first,"
        " limits on the norms of gradients, and tools that can be installed. Only what was measured stands here; what"
        " was not, is not claimed."
    )
    yield "## How often the verdict is right"
    yield (
        f"Programs with a known fault, their repaired versions and healthy controls, {len(data['seeds'])} seeds each,"
        " looked at before the first step, after a tenth of the training and at its end. The rules were written while"
        " looking at the same programs with other seeds, so this is no claim about other programs. An alarm of"
        " another tool counts as a hit wherever it could have meant the fault."
    )
    yield _verdicts(summary["checkers"])
    yield (
        f"unvanish: {ours['extra_errors']} findings of level error on faulty programs were beside the point; the"
        f" median check took {summary['median_seconds_a_look'] * 1000:.0f} ms. Versions: "
        + ", ".join(f"{name} {version}" for name, version in rivals.items())
        + ". [Every run](benchmarks/verdicts.md). The programs are not part of the package; where they lie beside the"
        " checkout, this repeats it:"
    )
    yield "```sh\npython benchmarks/verdicts.py --jobs 2\n```"
    yield "## Where unvanish is wrong"
    yield from _wrong(read("strangers_models"), read("strangers_random"))
    yield "## What watching costs"
    yield "The same trainings, watched by each, at the settings it comes with:"
    yield from watching_costs.steps(read("watch_cost"))
    yield "```sh\npython benchmarks/watch_cost.py --peers\n```"
    yield "## What the others do that this does not"
    yield from OTHERS


OTHERS = (
    "- **wandb.watch** sends histograms of gradients and weights to a page that a team shares. unvanish sends single"
    " numbers a layer there ([how](integrations.md#tensorboard-wb-mlflow)).",
    "- **torch-audit** also gives hints on hardware, memory layout and weight decay. They are not counted above,"
    " neither as hits nor as false alarms.",
    "- **A limit on gradient norms** is one line. It finds most faults of the table; it cannot say why a norm is"
    " small, and a network that has converged looks like one that has vanished.",
    "- **Profilers and anomaly detection** (`torch.autograd.detect_anomaly`) were not compared: they answer other"
    " questions.",
)


def _verdicts(checkers: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (
            name, f"{found['faults_named']:.0f} of {found['faults']}",
            f"{found['harmed_runs_named']:.0f} of {found['harmed_runs']}",
            f"{found['healthy_programs_flagged']} of {found['healthy_programs']}",
            f"{found['healthy_runs_flagged']} of {found['healthy_runs']}",
        )
        for name, found in checkers.items()
    ]  # fmt: skip
    heads = ("checker", "faults named", "harmed runs named", "healthy programs flagged", "healthy runs flagged")
    return table(heads, rows)


def _wrong(models: Mapping[str, Any], random: Mapping[str, Any]) -> Iterable[str]:
    library, drawn = models["library models"], random["random networks"]
    packages = ", ".join(f"{name} {version}" for name, version in models["packages"].items())
    yield (
        f"{library['networks']} models of other people's packages were checked, {library['that train']} of which a"
        f" short training shows to train: {len(library['false errors on those that train'])} of those got an error,"
        f" {len(library['crashes'])} checks crashed, and {library['faults found']} of {library['faults put in']}"
        f" faults that were put in were found. Packages: {packages}."
    )
    wrong = drawn["false errors on those that train"].values()
    codes = ", ".join(sorted({code for errors in wrong for code in errors}))
    yield (
        f"Of {drawn['networks']} networks drawn at random, {drawn['that train']} train within 60 steps;"
        + (f" {len(wrong)} of those got an error all the same ({codes})." if wrong else " none of those got an error.")
    )
    yield (
        "```sh\npython benchmarks/strangers.py --random 0\npython benchmarks/strangers.py --only NONE --random 600\n```"
    )
