"""What does not fit is refused where a rule is registered or speaks, with a sentence that says what to write."""

from __future__ import annotations

from typing import Any

import pytest

from unvanish import rules, zoo
from unvanish.records import EVERYTHING, Finding, Flow, Setting
from unvanish.remedies import remedies
from unvanish.rules import TIERS, Rule, Statement, refuse_unknown, rule, stamped

SOUND: dict[str, Any] = {
    "code": "UV799",
    "verdict": "vanished",
    "title": "a rule of this test",
    "tier": "vanishing",
    "levels": ("error",),
    "fires_on": ("sigmoid-20",),
    "silent_on": ("relu-he-20",),
}

SETTING = Setting(
    model="M", parameters=1, batch_size=1, dtype="float32", device="cpu", mode="train", effort="auto", seed=0
)


def judge(flow: Flow) -> list[Statement]:
    """It says nothing."""
    return []


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Rule]:
    """A copy, so that what a test registers is gone after it."""
    monkeypatch.setattr(rules, "_registry", {each.code: each for each in rules.rules()})
    return rules._registry  # pyright: ignore[reportPrivateUsage]


def test_a_sound_rule_is_registered(registry: dict[str, Rule]) -> None:
    rule(**SOUND)(judge)
    assert registry["UV799"].verdict == "vanished"
    assert registry["UV799"].needs == EVERYTHING, "a rule that does not say is spared a flow that lacks something"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"code": "UV1"}, "'UV1' is no code of a rule: write UV and three digits"),
        ({"code": "UV101"}, "UV101 is registered twice: give one of the two"),
        ({"verdict": ""}, "UV799 needs a verdict: one of the words of docs/rules.md"),
        ({"verdict": "vanishd"}, "no verdict 'vanishd'; did you mean vanished.*needs a row in VERDICTS"),
        ({"verdict": "log10_gain"}, "no verdict 'log10_gain'"),  # a word of the glossary, but of a field
        ({"tier": "first"}, "no tier 'first'; choose one of nonfinite, dead_by_construction"),
        ({"levels": ("warning",)}, r"levels=\('warning',\) must be a tuple of one or both of \('error', 'note'\)"),
        ({"levels": ()}, "must be a tuple of one or both"),
        ({"fires_on": ()}, "needs networks it fires on and networks it is silent on"),
        ({"silent_on": ()}, "needs networks it fires on and networks it is silent on"),
        ({"fires_on": "sigmoid-20"}, "fires_on='sigmoid-20' is a text; write a tuple"),
        (
            {"needs": ("log10_transmision",)},
            "no measurement is called 'log10_transmision'; did you mean",
        ),
        ({"needs": "loss"}, "needs='loss' is a text; write a tuple"),
        ({"silent_on": ("sigmoid-20",)}, "sigmoid-20 cannot stand in fires_on and in silent_on"),
    ],
)
def test_a_wrong_registration_is_refused(registry: dict[str, Rule], changes: dict[str, Any], sentence: str) -> None:
    before = dict(registry)
    with pytest.raises(ValueError, match=sentence):
        rule(**{**SOUND, **changes})(judge)
    assert registry == before


def test_a_rule_without_documentation_is_refused(registry: dict[str, Rule]) -> None:
    with pytest.raises(ValueError, match="UV799 needs a docstring"):
        rule(**SOUND)(lambda flow: [])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"remedies": ("he-int",)}, "UV799: there is no remedy 'he-int'; did you mean he-init"),
        ({"fires_on": ("sigmoid-21",)}, "UV799: the zoo has no network 'sigmoid-21'; did you mean sigmoid-20"),
        ({"silent_on": ("relu-he-2",)}, "UV799: the zoo has no network 'relu-he-2'; did you mean relu-he-20"),
    ],
)
def test_unknown_remedies_and_networks_are_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], sentence: str
) -> None:
    slugs = [each.slug for each in remedies()]
    refuse_unknown(remedies=slugs, networks=zoo.names())  # what is there is all known
    made = Rule(**{**SOUND, "judge": judge, **changes})
    monkeypatch.setattr(rules, "rules", lambda: (made,))
    with pytest.raises(ValueError, match=sentence):
        refuse_unknown(remedies=slugs, networks=zoo.names())


RULE = Rule(**SOUND, judge=judge, remedies=("he-init", "batchnorm"))


def test_a_statement_gets_what_the_registration_says() -> None:
    finding = stamped(RULE, Statement(message="It is so.", layers=("fc1",)))
    assert finding == Finding(
        code="UV799", verdict="vanished", level="error", message="It is so.", layers=("fc1",),
        remedies=("he-init", "batchnorm"),
    )  # fmt: skip
    assert stamped(RULE, Statement(remedies=("batchnorm",))).remedies == ("batchnorm",)
    assert stamped(RULE, Statement(remedies=())).remedies == ()


def test_a_statement_beyond_the_registration_is_refused() -> None:
    both = Rule(**{**SOUND, "levels": ("error", "note")}, judge=judge)
    assert stamped(both, Statement(level="note")).level == "note"
    with pytest.raises(ValueError, match=r"of level ''.*write level='error' or level='note' in the Statement"):
        stamped(both, Statement())
    with pytest.raises(ValueError, match="of level 'note', but is registered with"):
        stamped(RULE, Statement(level="note"))
    with pytest.raises(ValueError, match="UV799 names lsuv-init, but is registered without"):
        stamped(RULE, Statement(remedies=("lsuv-init",)))
    finding: Any = Finding(code="UV799", verdict="dead", level="error")
    with pytest.raises(TypeError, match=r"UV799 returned a Finding: return a list of Statement"):
        stamped(RULE, finding)


def test_the_tiers_are_all_used_and_the_order_is_theirs() -> None:
    order = [TIERS.index(each.tier) for each in rules.rules()]
    assert order == sorted(order)
    assert set(order) == set(range(len(TIERS)))


def test_what_is_no_list_of_statements_is_said(registry: dict[str, Rule]) -> None:
    def nothing(flow: Flow) -> Any:
        """It forgets to return."""

    def second(flow: Flow) -> list[Statement]:
        """It has a verdict of its own."""
        return [Statement(verdict="dead")]  # pyright: ignore[reportCallIssue]

    def broken(flow: Flow) -> list[Statement]:
        """It fails in a way of its own."""
        raise TypeError("of its own")

    for judged, sentence in (
        (nothing, r"UV799 returned a NoneType: return a list, \[\] for nothing to say"),
        (second, "UV799: Unexpected keyword argument 'verdict'. A Statement has level, layers, .*; its code"),
        (broken, "^of its own$"),
    ):
        registry.clear()
        rule(**{**SOUND, "needs": ()})(judged)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(TypeError, match=sentence):
            patch.setattr(rules, "rules", lambda: tuple(registry.values()))
            rules.judge(Flow(setting=SETTING))


def test_a_text_that_was_not_filled_in_is_refused(registry: dict[str, Rule]) -> None:
    def judge(flow: Flow) -> list[Statement]:
        """FILL IN: what it finds."""
        return []

    with pytest.raises(ValueError, match="UV799: its text still says FILL IN"):
        rule(**SOUND)(judge)


def test_the_beginning_of_a_name_is_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean clip-gradients"):
        _refused("clip", {"clip-gradients", "flip", "slip"})


def _refused(slug: str, known: set[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        made = Rule("UV799", "vanished", "t", "vanishing", ("error",), judge, ("a",), ("b",), (slug,))
        patch.setattr(rules, "rules", lambda: (made,))
        refuse_unknown(remedies=known)
