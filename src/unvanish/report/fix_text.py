"""The text answer of a search: what to change, what it brings, what it cost, and what did not help.

What comes from the user's program passes through ``Page.clean``. rich is imported when an answer is rendered.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from unvanish.records import DEFAULT_LENGTHS, Finding, Trial
from unvanish.report.formats import writer
from unvanish.report.page import ASCII, FAULT, FINE, QUIET, STRONG, Page, laid_out
from unvanish.words.numbers import listing, score

if TYPE_CHECKING:
    from unvanish.trials.fixes import Fixes

MOST_ROWS = 12
MOST_REASONS = 8
MOST_NAMES = 24
FAILED = "the loss was"
HALF = 0.5
NOT_FINITE = {"UV501", "UV502"}
DOTS = str.maketrans("●─┊", "o-|")
Scale = tuple[float, float]


@writer("text", suffix=".txt", of="fix")
def write(fixes: Fixes) -> str:
    """The answer as it stands in a terminal, 80 columns wide and without colours."""
    return render(fixes)


def render(fixes: Fixes, width: int = 80, color: bool = False, unicode: bool = True) -> str:
    """The answer as lines of at most ``width`` cells (40 at least), without a newline at the end.

    ``color`` adds ANSI colours, which only repeat what the words say; without ``unicode`` the text is plain ASCII.
    """
    parts = (_headline, _change, _tried, _not_tried, _advice, _cost)
    text = laid_out(parts, fixes, width, color, unicode)
    return text if unicode else text.translate(DOTS).translate(ASCII)


def headline(fixes: Fixes) -> tuple[str, str]:
    """The verdict in a word or two, and the sentence that goes with it."""
    stopped = " (interrupted: the best so far)" if fixes.interrupted else ""
    if fixes.best is not None:
        base = score(fixes.best.baseline)
        return (
            f"{'Repaired' if fixes.verdict == 'repaired' else 'Better, but not repaired'}{stopped}",
            f"{fixes.unit} {base} as it is, {score(fixes.best.score)} with {fixes.best.remedy}",
        )
    if fixes.verdict == "nothing to repair":
        short = "" if fixes.as_is.steps >= fixes.planned else ", and later ones were not looked at"
        after = f"after {fixes.as_is.steps:,} of {_steps(fixes.planned)}{short}"
        tried = len(fixes.trials)
        none = f"; {tried} changes were raced, and none is better" if tried else ""
        return (
            "Nothing to repair (interrupted)" if fixes.interrupted else "Nothing to repair",
            f"no fault was found and the loss falls ({fixes.unit} {score(fixes.as_is.score)} {after}){none}",
        )
    where = "before it was interrupted" if fixes.interrupted else "within the budget"
    closest = fixes.trials[0] if fixes.trials else None
    count = len(fixes.trials)
    tries = (
        "nothing was tried" if closest is None else f"{count} {'change was' if count == 1 else 'changes were'} tried"
    )
    if closest is not None and closest.judged:
        tries += f"; the closest, {closest.remedy}, brought {score(closest.score)} instead of {score(closest.baseline)}"
    return f"No remedy found {where}", tries


def evidence(fixes: Fixes) -> Iterator[str]:
    """What the accepted or closest trial rests on."""
    trial = fixes.best or (fixes.trials[0] if fixes.trials and fixes.trials[0].judged else None)
    if trial is None:
        return
    base = fixes.as_is.score_spread
    yield f"as it is {score(trial.baseline)}{_range(base, trial.seeds)}"
    yield f"changed {score(trial.score)}{_range(trial.score_spread, trial.seeds)}"
    if trial.score is not None and trial.baseline is not None and trial.needed is not None:
        yield f"gain {score(trial.score - trial.baseline)}, needed: more than {score(trial.needed)}"
    seeds = f"{trial.seeds} {'seed' if trial.seeds == 1 else 'seeds'}"
    yield f"after {trial.steps:,} of {_steps(fixes.planned)} each, {seeds}"
    if not fixes.unseen:
        yield "training scores: nothing is claimed about unseen data"
    else:
        yield (
            "on validation data that was not used to choose it"
            if fixes.split
            else "on the validation data that also chose"
        )
    yield from learned(fixes)
    yield from checked_again(fixes)


def learned(fixes: Fixes) -> Iterator[str]:
    """How much of what there is to learn the accepted change has learnt, and whether it was still at it."""
    share, training = fixes.learned, fixes.learned_in_training
    if fixes.best is None or share is None:
        return
    data = "on the data that judged" if fixes.unseen and share != training else "in training"
    if max(share, training or share) <= 0.0:
        yield f"no lower a loss than the best constant answer's yet, {data}"
    else:
        beside = "" if training is None or share == training else f", {_percent(training)} in training"
        yield f"{_percent(share)} of the way from the best constant answer to the lowest loss {data}{beside}"
    if fixes.best.steps < fixes.planned:
        yield f"the training loss was {'still falling' if fixes.still_falling else 'hardly falling at the end'}"


def checked_again(fixes: Fixes) -> Iterator[str]:
    """What a check of the changed network says of each error found before, and what it says that was not said then."""
    if fixes.best is None or fixes.after is None:
        return
    left = {finding.code: finding.level for finding in fixes.after.findings}
    before = dict.fromkeys(f.code for f in fixes.before.findings if f.level == "error")
    for code in before:
        yield f"checked again: {code} {'is gone' if left.get(code) != 'error' else 'stays'}"
    if new := [code for code, level in left.items() if level == "error" and code not in before]:
        yield f"checked again: {', '.join(new)} {'is' if len(new) == 1 else 'are'} new"


def _percent(share: float) -> str:
    return f"{max(0.0, share):.0%}"


def _headline(fixes: Fixes, page: Page) -> None:
    word, sentence = headline(fixes)
    style = FAULT if fixes.verdict == "no remedy found" else FINE
    page.print((f"{page.clean(word)}: ", f"{STRONG} {style}"), (page.clean(sentence), STRONG))
    if facts := list(evidence(fixes)):
        page.line()
        page.facts("Measured:", map(page.clean, facts))


def _change(fixes: Fixes, page: Page) -> None:
    if fixes.best is None:
        return
    page.title("What to change")
    page.print((page.clean(fixes.best.change), ""))
    if fixes.patch:
        page.line()
        for line in fixes.patch.splitlines():
            style = FINE if line.startswith("+") else FAULT if line.startswith("-") else QUIET
            page.line((page.clean(line), style))
    else:
        where = "fixes.code (or --write FILE) is the Python text that makes the change without unvanish."
        page.print((f"{where} No diff: {page.clean(fixes.patch_refused)}.", QUIET))


def _tried(fixes: Fixes, page: Page) -> None:
    shown = [trial for trial in (fixes.as_is, *fixes.trials) if trial.score is not None][: MOST_ROWS + 1]
    if not fixes.trials or len(shown) < 2:
        return
    page.title(f"What was tried ({page.clean(fixes.unit)}, higher is better)")
    page.print(("┊ as it is; ─ lowest to highest seed; not judged: one seed, on the data that chooses", QUIET))
    page.line()
    scale = scale_of(shown)
    headers = ("score", "as is", "steps") if page.width >= 64 else ("score",)
    taken = 9 * len(headers) + 9
    names = page.widest([trial.remedy for trial in shown], 5, max(12, page.width - taken - 14))
    room = min(page.width - names - taken, 30)
    page.line((f"{'':{names}}  {'  '.join(f'{header:>7}' for header in headers)}", QUIET))
    for trial in shown:
        name = page.short(page.clean(trial.remedy), names)
        numbers = (_cell(trial.score), _cell(trial.baseline), f"{trial.steps:>7,}")[: len(headers)]
        mark = "judged" if trial.judged and trial is not fixes.as_is else ""
        style = STRONG if trial.helped else ""
        page.line((f"{name:{names}}  {'  '.join(numbers)}  {dots(trial, scale, room)} {mark}", style))
    if more := len(fixes.trials) + 1 - len(shown):
        page.print((f"and {more} more that were behind or gave no finite score", QUIET))


def dots(trial: Trial, scale: Scale, room: int) -> str:
    """A trial on its row: ● its score, ─ the range of its seeds, ┊ the network as it is after as many steps."""
    if room < 5 or trial.score is None:
        return ""
    cells = [" "] * room

    def place(at: float) -> int:
        return round((room - 1) * along(at, scale))

    if trial.baseline is not None:
        cells[place(trial.baseline)] = "┊"
    low, high = trial.score_spread or (trial.score, trial.score)
    for cell in range(place(low), place(high) + 1):
        cells[cell] = "─"
    cells[place(trial.score)] = "●"
    return "".join(cells)


def _not_tried(fixes: Fixes, page: Page) -> None:
    no_use = [t.remedy for t in fixes.trials if _no_use(t)]
    if no_use:
        page.title("What did not help")
        page.print((page.clean(listing(no_use, MOST_NAMES)), ""))
    if fixes.refused and fixes.trials:
        page.title("What does not apply")
        asked = {slug for finding in fixes.before.findings for slug in finding.remedies}
        shown = [(slug, reason) for slug, reason in fixes.refused if slug in asked][:MOST_REASONS]
        for slug, reason in shown:
            page.listed(page.clean(slug), page.clean(reason))
        rest = [slug for slug, reason in fixes.refused if (slug, reason) not in shown]
        if rest:
            page.print((f"{'and ' if shown else ''}{page.clean(', '.join(rest))}", QUIET))


def _no_use(trial: Trial) -> bool:
    if trial.helped:
        return False
    return trial.score is None or (trial.baseline is not None and trial.score <= trial.baseline + 0.02)


def advice(fixes: Fixes) -> Iterator[str]:
    """What to do next, where nothing was repaired."""
    if fixes.verdict == "nothing to repair" and not fixes.trials:
        yield "to search all the same: --anyway, or fix(problem, anyway=True)"
    if fixes.verdict == "improved":
        yield from _what_is_missing(fixes)
    if fixes.verdict != "no remedy found":
        return
    if fixes.interrupted:
        yield "to go on from here: fix(problem, resume=fixes), or the same command where it had --resume FILE"
        return
    if not fixes.trials:
        yield f"give a larger budget: {max(DEFAULT_LENGTHS * fixes.planned, 2 * fixes.budget):,} steps, say"
        return
    yield from _lesson(fixes)
    errors = [finding for finding in fixes.before.findings if finding.level == "error"]
    if errors:
        yield f"what the check found is still there: {_codes(errors)}; unvanish check says where and why"
    yield from _by_hand(fixes)


def _by_hand(fixes: Fixes) -> Iterator[str]:
    """Why the one remedy that an error names cannot be applied, which says what to change in the program."""
    why = dict(fixes.refused)
    for finding in fixes.before.findings:
        if finding.level == "error" and len(finding.remedies) == 1 and finding.remedies[0] in why:
            yield f"{finding.code}: {why[finding.remedies[0]]}"


def _what_is_missing(fixes: Fixes) -> Iterator[str]:
    """Why a change that helps is not called a repair."""
    errors = [] if fixes.after is None else [each for each in fixes.after.findings if each.level == "error"]
    if errors:
        yield f"a check of the changed network finds {_codes(errors)}: this change is not the whole cure"
    share, training, best = fixes.learned, fixes.learned_in_training, fixes.best
    assert best is not None
    if training is not None and training < HALF:
        shorter = best.steps < fixes.planned
        yield (
            f"less than half of what there is to learn was learnt in {_steps(best.steps)}"
            + (f"; train it for all {fixes.planned:,} steps, or " if shorter else "; ")
            + f"search with a larger budget, which judges after more of them (--budget {2 * fixes.budget})"
        )
    elif share is not None and share < HALF:
        yield (
            "it learns its training data, and not half of what there is to learn holds for unseen data: more data, a"
            " smaller network or less training may be needed beside this change"
        )


def _codes(errors: Sequence[Finding]) -> str:
    return ", ".join(dict.fromkeys(f"{each.code} ({each.verdict})" for each in errors))


def _lesson(fixes: Fixes) -> Iterator[str]:
    """What follows from how the trials ended."""
    trials, closest = fixes.trials, fixes.trials[0]
    larger = f"a larger budget tries and trains more (--budget {2 * fixes.budget})"
    if all(trial.score is None for trial in (fixes.as_is, *trials)):
        failed = [trial.reason for trial in trials if FAILED in trial.reason or "raised" in trial.reason]
        if len(failed) < len(trials) / 2:
            yield f"{fixes.unit} was a finite number in no trial, though the losses were: look at what the metric does"
        else:
            often = Counter(failed).most_common(1)[0][0]
            yield f"{len(failed)} of {len(trials)} changes ended like this: {often}"
            codes = {finding.code for finding in fixes.before.findings} & NOT_FINITE
            yield (
                f"no change moves it: look at the call that {' and '.join(sorted(codes))} names first"
                if codes
                else "a fault that no change of the network moves lies in the loss or the data: look there first"
            )
    elif closest.judged and closest.needed is not None and _gain(closest) > 0.0:
        yield f"{closest.remedy} may help, but its gain is not above what chance makes ({score(closest.needed)})"
        yield f"more validation samples and more seeds tell smaller gains from chance; {larger}"
    elif fixes.learned is not None and fixes.learned >= HALF:
        yield (
            f"the network as it is has learnt {_percent(fixes.learned)} of what there is to learn, after"
            f" {fixes.as_is.steps:,} of {_steps(fixes.planned)}: it may need no repair"
        )
    else:
        yield (
            "no change did better than the network as it is: see that the targets can be told from the inputs, and that"
            " training and validation data are of one kind"
        )
        yield larger


def _gain(trial: Trial) -> float:
    return -math.inf if trial.score is None or trial.baseline is None else trial.score - trial.baseline


def _advice(fixes: Fixes, page: Page) -> None:
    if lines := list(advice(fixes)):
        page.title("What to do next")
        for line in lines:
            page.print((page.clean(line), ""), label="- ")


def _cost(fixes: Fixes, page: Page) -> None:
    page.line()
    cost = f"{fixes.spent:,} of {fixes.budget:,} optimizer steps (one full training: {fixes.planned:,})"
    facts = [cost, "not counted: checks and scoring, which train nothing"]
    if fixes.cut_off:
        number_of = len(fixes.cut_off)
        facts.append(
            f"{number_of} {'change' if number_of == 1 else 'changes'} tried last: they leave the fault as it is"
        )
    page.facts("Spent:", facts)
    for remark in fixes.remarks:
        page.print((page.clean(remark), QUIET), label="- ")


def scale_of(trials: Sequence[Trial]) -> Scale:
    """From the lowest to the highest score; scores far below the one as it is are drawn at the edge."""
    ends = [end for t in trials if t.score is not None for end in t.score_spread or (t.score, t.score)]
    high, base = max(ends), trials[0].score if trials[0].score is not None else min(ends)
    low = max(min(ends), base - max(high - base, 0.1))
    return low, high if high > low else low + 1.0


def along(at: float, scale: Scale) -> float:
    """How far along the scale a score lies, from 0 to 1."""
    low, high = scale
    return min(max((at - low) / (high - low), 0.0), 1.0)


def _cell(value: float | None) -> str:
    return f"{score(value) if value is not None else '–':>7}"


def _range(spread: tuple[float, float] | None, seeds: int) -> str:
    return f" ({score(spread[0])} … {score(spread[1])})" if spread is not None and seeds > 1 else ""


def _steps(count: int) -> str:
    return f"{count:,} {'step' if count == 1 else 'steps'}"
