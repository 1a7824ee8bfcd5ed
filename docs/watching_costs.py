"""What stands in docs/watching.md on costs: measured numbers as tables, read off benchmarks/results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from written import read, table


def costs() -> str:
    """All that was measured of it."""
    parts = (("watch_cost", steps), ("run_file", _file), ("watch_birth", _birth), ("watch_healthy", _healthy))
    return "\n\n".join(part for name, written in parts for part in written(read(name)))


def steps(data: dict[str, Any]) -> Iterable[str]:
    networks = data["networks"]
    yield (
        "Time of a training step, as a multiple of the same step without: the mean over all steps, and in brackets the"
        " median, which hides a step that is dear now and then. The *naive loop* is `p.grad.norm().item()`"
        " of each parameter:"
    )
    ways = dict.fromkeys(way for rows in networks.values() for way in rows if way != "memory")
    yield table(("", *networks), [(way, *(_cell(rows.get(way, {})) for rows in networks.values())) for way in ways])
    lowest = min(row["mean"] for rows in networks.values() for row in rows.values() if "mean" in row)
    if lowest < 1.0:
        yield (
            f"Nothing makes a step faster: a number below 1 is the noise of a machine that others use as well, here"
            f" {1.0 - lowest:.2f} at most."
        )
    memory = [(name, rows["memory"]) for name, rows in networks.items() if "watched_mib" in rows.get("memory", {})]
    if memory:
        yield _memory(memory)
    peers = ", ".join(f"{name} {version}" for name, version in data.get("peers", {}).items())
    yield (
        f"Processor time, {data['machine']['processor']}, {data['machine']['threads']} thread, torch"
        f" {data['versions']['torch']}{', ' if peers else ''}{peers}; two cores with a load of"
        f" {min(data['load']):.1f} to {max(data['load']):.1f}, mostly of others; by `benchmarks/watch_cost.py`."
        f" {data.get('note', '')}".rstrip()
    )


def _memory(rows: list[tuple[str, dict[str, float]]]) -> str:
    said: list[str] = []
    for name, found in rows:
        more = found["watched_mib"] - found["plain_mib"]
        said.append(f"{more:.2f} MiB more than {found['plain_mib']:.0f} ({name})")
    most = max(found["beside_tensors_mib"] for _, found in rows)
    return (
        f"Peak memory of all tensors of a training at every=1, by torch's own account: {'; '.join(said)}. What Python"
        f" and SQLite hold beside does not grow with the tensors: {most:.1f} MiB at most."
    )


def _cell(row: dict[str, Any]) -> str:
    if "error" in row:
        return "fails"
    return f"{row['mean']:.2f} ({row['median']:.2f})" if row else "not measured"


def _file(data: dict[str, Any]) -> Iterable[str]:
    asked = data["asked"]
    slowest = max(each["seconds"] for each in asked.values())
    memory = max(each["peak_mib"] for each in asked.values())
    yield (
        f"The file of {data['steps']:,} sampled steps of {data['layers']} layers takes {data['file_mib']:.0f} MiB, that"
        f" is {data['bytes_after_thinning']:.1f} bytes a step and layer ({data['bytes_a_step_and_layer']:.0f} before it"
        f" is thinned). It is opened and a first question answered in {slowest:.1f} s and {memory:.0f} MiB, at most; by"
        " `benchmarks/run_file.py`."
    )


def _birth(data: dict[str, Any]) -> Iterable[str]:
    rows = list(data["faults"].values())
    named = sum(row["named"] for row in rows)
    slowest = max(rows, key=lambda row: row["clock_s"])
    yield (
        f"From a number that stops being finite in the {data['network']}, to the finding that names its call:"
        f" {slowest['clock_s']:.1f} s by the clock at most ({max(row['processor_s'] for row in rows):.2f} s of"
        f" processor, on two cores with a load of {data['load']:.1f}), beside {slowest['step_s']:.2f} s for a step;"
        f" {named} of {len(rows)} named, at every=1 and every=10; by `benchmarks/watch_birth.py`."
    )


def _healthy(data: dict[str, Any]) -> Iterable[str]:
    rows = data["rows"]
    errors = sum(level == "error" for row in rows for _, level, _ in row["findings"])
    notes = sum(level != "error" for row in rows for _, level, _ in row["findings"])
    yield (
        f"{len(rows)} trainings in which nothing is wrong, 1,000 steps each (MLPs, CNN, GPT, GAN, RL, LSTM, warm-up,"
        f" cosine, dropout, batch norm, mixed precision, converged): {errors or 'no'} finding of level error, {notes}"
        " notes; by `benchmarks/watch_healthy.py`."
    )
