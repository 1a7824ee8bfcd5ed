"""The answer of a search as one HTML page, which needs neither JavaScript nor anything from elsewhere."""

from __future__ import annotations

from html import escape

from unvanish.trials.fixes import Fixes
from unvanish.trials.text import evidence, headline, number

STYLE = """
:root { color-scheme: light dark; --up: #0072b2; --down: #d55e00; --quiet: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root { --up: #56b4e9; --down: #e69f00; --quiet: #a0a0a0; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .2rem .6rem; text-align: left; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } tr { border-bottom: 1px solid #8884; }
pre { overflow: auto; padding: .8rem; border: 1px solid #8886; font-size: .85rem; } .quiet { color: var(--quiet); }
svg { width: 16rem; height: 1.2rem; } line { stroke: var(--up); stroke-width: 2; } circle { fill: var(--up); }
line.base { stroke: var(--quiet); stroke-dasharray: 3 2; }
"""


def page(fixes: Fixes) -> str:
    """The verdict, what to change, the trials as dots with ranges, the code, what does not apply, the cost."""
    word, sentence = headline(fixes)
    parts = [
        f'<h1 role="status">{escape(word)}: {escape(sentence)}</h1>',
        f"<p>{escape(' · '.join(evidence(fixes)))}</p>",
        _change(fixes),
        _table(fixes),
        _listed("What does not apply", [f"{slug}: {reason}" for slug, reason in fixes.refused]),
        _listed(
            f"Spent: {fixes.spent:,} of {fixes.budget:,} optimizer steps (one full training: {fixes.planned:,})",
            ["not counted: checks and scoring, which train nothing", *fixes.remarks],
        ),
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    body = "\n".join(filter(None, parts))
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<title>{escape(word)} — unvanish fix</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>"
    )


def _change(fixes: Fixes) -> str:
    if fixes.best is None:
        return ""
    diff = f"<pre>{escape(fixes.patch)}</pre>" if fixes.patch else ""
    code = f"<details><summary>The code, without unvanish</summary><pre>{escape(fixes.code)}</pre></details>"
    return f"<h2>What to change</h2><p>{escape(fixes.best.change)}</p>{diff}{code}"


def _table(fixes: Fixes) -> str:
    trials = [trial for trial in (fixes.as_is, *fixes.trials) if trial.score is not None]
    if len(trials) < 2:
        return ""
    ends = [end for t in trials if t.score is not None for end in t.score_spread or (t.score, t.score)]
    ends += [t.baseline for t in trials if t.baseline is not None]
    low, high = min(ends), max(ends)

    def place(score: float) -> float:
        return 4.0 + 232.0 * (score - low) / ((high - low) or 1.0)

    rows = []
    for trial in trials:
        assert trial.score is not None
        left, right = trial.score_spread or (trial.score, trial.score)
        marks = f'<line x1="{place(left):.1f}" x2="{place(right):.1f}" y1="10" y2="10"/>'
        if trial.baseline is not None:
            at = f"{place(trial.baseline):.1f}"
            marks = f'<line class="base" x1="{at}" x2="{at}" y1="0" y2="20"/>{marks}'
        dot = f'<circle cx="{place(trial.score):.1f}" cy="10" r="4"/>'
        kind = "judged" if trial.judged and trial is not fixes.as_is else trial.reason
        rows.append(
            f'<tr><td>{escape(trial.remedy)}</td><td class="n">{number(trial.score)}</td>'
            f'<td class="n">{number(trial.baseline)}</td><td class="n">{trial.steps:,}</td>'
            f'<td><svg viewBox="0 0 240 20" aria-hidden="true">{marks}{dot}</svg></td>'
            f'<td class="quiet">{escape(kind)}</td></tr>'
        )
    names = "".join(f'<th class="n">{name}</th>' for name in ("score", "as is", "steps"))
    head = f"<tr><th>change</th>{names}<th></th><th></th></tr>"
    title = f"What was tried ({escape(fixes.unit)}, higher is better)"
    note = "Dashed: the network as it is after as many steps. Not judged: one seed, on the data that chooses."
    return f'<h2>{title}</h2><p class="quiet">{note}</p><table>{head}{"".join(rows)}</table>'


def _listed(title: str, lines: list[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>{escape(title)}</h2><ul>{items}</ul>" if lines else ""
