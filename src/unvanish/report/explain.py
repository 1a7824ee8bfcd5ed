"""What a code, a remedy, a verdict or a term means, in text: the rules' and remedies' own words and the glossary."""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
from collections.abc import Iterator

from unvanish.records import UnvanishError
from unvanish.report.advice import Advice, advice
from unvanish.rules import Event, Rule, known
from unvanish.words.glossary import GLOSSARY, VERDICT_WORDS
from unvanish.words.terms import TERMS

WIDTH = 80


def explain(topic: str = "") -> str:
    """The page of a rule's code, a remedy, a verdict, or a term or record field; without a topic, what there is.

    Capitals, blanks, hyphens and underscores do not matter, nor a plural's s; "101" is UV101, and "UV1" lists the codes
    that begin so. What is no name is looked for in the titles, and then in the words of every entry. Raises
    UnvanishError with the nearest topics where there is none of that name.
    """
    if not topic.strip():
        return _contents()
    wanted = _plain(topic)
    for rule in known():
        if wanted in (_plain(rule.code), rule.code[2:]):
            return _rule_page(rule)
    if re.fullmatch(r"uv\d{1,2}x*", wanted) and (family := _family(wanted.rstrip("x").upper())):
        return family
    for remedy in advice().values():
        if _joined(remedy.slug) == _joined(topic):
            return _remedy_page(remedy)
    pages = [*_verdict_page(wanted), *_entries(wanted)]
    pages = pages or _by_words(wanted)
    if pages:
        return "\n\n".join(pages)
    raise UnvanishError(f"there is nothing to explain under {topic!r}; {_nearest(wanted)}")


def _family(start: str) -> str:
    """The codes that begin with ``start``, by number; empty where none does."""
    codes = sorted((rule for rule in known() if rule.code.startswith(start)), key=lambda rule: rule.code)
    return "\n\n".join(f"{rule.code}  {rule.title}\n{_wrapped(_first(rule), indent=2)}" for rule in codes)


def _by_words(wanted: str) -> list[str]:
    """The page of the one title that holds these words, else the titles that do, else the entries that do."""
    words = r"[\W_]+".join(map(re.escape, wanted.split("_")))
    pattern = re.compile(rf"(?<![a-z0-9]){words}(?:s|es)?(?![a-z0-9])", re.IGNORECASE)
    in_rules = [rule for rule in known() if pattern.search(rule.title)]
    in_remedies = [remedy for remedy in advice().values() if pattern.search(f"{remedy.slug} {remedy.title}")]
    if len(in_rules) == 1:
        return [_rule_page(in_rules[0])]
    if len(in_rules) + len(in_remedies) == 1:
        return [_remedy_page(in_remedies[0])]
    said = [f"{rule.code}  {rule.title}" for rule in in_rules]
    said += [f"{remedy.slug}  {remedy.title}" for remedy in in_remedies]
    said += [f"{rule.code}  {rule.title}" for rule in known() if pattern.search(rule.doc)]
    if not said:
        said = [f"{key.rpartition('.')[2]}  (term)" for key, entry in GLOSSARY.items() if pattern.search(entry)]
    said = list(dict.fromkeys(said))
    return ["\n".join([f"{wanted.replace('_', ' ')!r} stands in:", *(f"  {line}" for line in said)])] if said else []


def _rule_page(rule: Rule | Event) -> str:
    head = f"{rule.code}  {rule.title} (verdict: {rule.verdict.replace('_', ' ')})"
    # a paragraph with indented lines is a formula or a listing and stays as it is
    paragraphs = [text if "\n " in text else _wrapped(text) for text in inspect.cleandoc(rule.doc).split("\n\n")]
    return "\n\n".join([head, *paragraphs])


def _remedy_page(remedy: Advice) -> str:
    """The title, what it does, where it helps and where not, and the findings that name it."""
    head, _, rest = remedy.doc.partition("\n\n")
    parts = [f"{remedy.slug}  {remedy.title} (remedy: {remedy.kind})", _wrapped(head)]
    parts += [_wrapped(text) for text in re.split(r"\n(?=[A-Z][a-z ]+: )", rest) if text]
    return "\n\n".join(parts)


def _verdict_page(wanted: str) -> Iterator[str]:
    """What the word means, and the rules that say it."""
    if wanted not in VERDICT_WORDS:
        return
    yield f"{wanted.replace('_', ' ')}  (verdict)\n\n{_wrapped(GLOSSARY[wanted])}"
    speaking = [rule for rule in known() if rule.verdict == wanted]
    if speaking:
        yield "\n\n".join(f"{rule.code}  {rule.title}\n{_wrapped(_first(rule), indent=2)}" for rule in speaking)


def _entries(wanted: str) -> Iterator[str]:
    """The entries of a term or a field; a name that several records use has one for each."""
    for key, entry in GLOSSARY.items():
        record, _, field = key.rpartition(".")
        if wanted in (_plain(field), f"{_plain(field)}s", _plain(key)) and key not in VERDICT_WORDS:
            yield f"{field}{f'  ({record})' if record else ''}\n\n{_wrapped(entry)}"


def _contents() -> str:
    codes = "\n".join(f"  {rule.code}  {rule.title}" for rule in sorted(known(), key=lambda rule: rule.code))
    fields = sorted({key.rpartition(".")[2] for key in GLOSSARY} - set(VERDICT_WORDS) - set(TERMS), key=str.lower)
    parts = (
        f"Codes\n{codes}",
        f"Remedies\n{_wrapped(', '.join(advice()), indent=2)}",
        f"Verdicts\n{_wrapped(', '.join(VERDICT_WORDS), indent=2)}",
        f"Terms\n{_wrapped(', '.join(sorted(TERMS)), indent=2)}",
        f"Fields of the records (in JSON and in Python)\n{_wrapped(', '.join(fields), indent=2)}",
        "unvanish explain CODE, REMEDY, VERDICT or TERM shows one of them.",
    )
    return "\n\n".join(parts)


def _nearest(wanted: str) -> str:
    topics = [rule.code for rule in known()] + list(advice()) + [key.rpartition(".")[2] for key in GLOSSARY]
    by_plain = {_plain(topic): topic for topic in topics}
    near = difflib.get_close_matches(wanted, by_plain, n=3, cutoff=0.5)
    if near:
        return f"did you mean {', '.join(by_plain[each] for each in near)}?"
    return "`unvanish explain` without a topic lists them all"


def _first(rule: Rule | Event) -> str:
    """The first sentence of a rule's text."""
    opening = " ".join(inspect.cleandoc(rule.doc).partition("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) (?=[A-Z])", opening, maxsplit=1)[0]


def _plain(topic: str) -> str:
    return re.sub(r"[\s_-]+", "_", topic.strip().lower())


def _joined(topic: str) -> str:
    return re.sub(r"[\W_]+", "", topic.lower())


def _wrapped(text: str, indent: int = 0) -> str:
    """Lines of at most 80 characters; the marks of code in a docstring are for pages, not for a terminal."""
    blank = " " * indent
    return textwrap.fill(
        text.replace("``", ""),
        WIDTH,
        initial_indent=blank,
        subsequent_indent=blank,
        break_long_words=False,
        break_on_hyphens=False,
    )
