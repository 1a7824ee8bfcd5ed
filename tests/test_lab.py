"""The lab's frame: settings are checked in one place, outcomes are written in every format, experiments register."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from unvanish import lab
from unvanish.lab.parameters import settle
from unvanish.population.threads import one_thread
from unvanish.records import UnvanishError
from unvanish.report import lab_text

PARAMETERS = (
    lab.Parameter("depth", 20, "layers", 1, 100_000),
    lab.Parameter("rate", 0.5, "a rate", 0.001, 10),
    lab.Parameter("free", 0.0, "any number"),
    lab.Parameter("quick", False, "a switch"),
    lab.Parameter("phi", "tanh", "a function", choices=("tanh", "sigmoid")),
    lab.Parameter("weight", (0.17,), "weights", -3, 3, most=4),
)
OUTCOME = lab.Outcome(
    experiment="toy",
    title="A toy",
    settings={"depth": 3, "weight": [0.17], "quick": True},
    sentence="It is <small> & gone.",
    columns=(lab.Column("layer"), lab.Column("log10_g", "log10", "a gradient", sign="sign"), lab.Column("sign"),
             lab.Column("share", "%"), lab.Column("who")),
    rows=(
        {"layer": 1, "log10_g": -math.inf, "sign": 0, "share": None, "who": "a,b"},
        {"layer": 2, "log10_g": -1371.25, "sign": -1, "share": math.nan, "who": "<script>"},
    ),
    pictures=(lab.Drawing("none such", "", "", {"points": [{"x": -math.inf}]}),),
    checks=(lab.Check.close("a sum", 1.0, 1.0 + 1e-12), lab.Check("a claim", 1.0, 2.0, False)),
    notes=("A note.",),
)  # fmt: skip


def settled(**given: object) -> lab.Settings:
    return settle(PARAMETERS, given, "lab toy", {})


def test_kinds_follow_from_defaults_and_texts_are_read() -> None:
    assert [parameter.kind for parameter in PARAMETERS] == ["int", "float", "float", "bool", "str", "list"]
    s = settled(depth="1e3", rate=" 0.25 ", quick="yes", phi="sigmoid", weight="0.1,2,-3")
    assert (s.depth, s.rate, s.quick, s.phi, s.weight) == (1_000, 0.25, True, "sigmoid", (0.1, 2.0, -3.0))
    assert isinstance(s.depth, int)
    assert s.given == {"depth", "rate", "quick", "phi", "weight"}
    assert settled(weight=1).weight == (1.0,)
    assert settled().free == 0.0
    assert dict(settled())["depth"] == 20


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"depth": 1e9}, r"lab toy: depth is 1000000000; it takes a whole number from 1 to 100,000"),
        ({"depth": "1e9"}, r"depth is 1000000000; it takes a whole number from 1 to 100,000"),
        ({"depth": 0}, r"depth is 0; it takes a whole number from 1 to 100,000"),
        ({"depth": 2.5}, r"depth is 2.5; it takes a whole number"),
        ({"depth": True}, r"depth is True; it takes a whole number"),
        ({"depth": "deep"}, r"depth is deep; it takes a whole number"),
        ({"depth": 10**400}, r"depth is 1000.*…; it takes a whole number"),
        ({"rate": float("nan")}, r"rate is nan; it takes a number from 0.001 to 10"),
        ({"rate": "inf"}, r"rate is inf; it takes a number from 0.001 to 10"),
        ({"rate": None}, r"rate is None; it takes a number"),
        ({"rate": [1]}, r"rate is \[1\]; it takes a number"),
        ({"free": "nan"}, r"free is nan; it takes a number$"),
        ({"quick": 1}, r"quick is 1; it takes true or false"),
        ({"quick": "perhaps"}, r"quick is perhaps; it takes true or false"),
        ({"phi": "tahn"}, r"phi is tahn; it takes one of tanh, sigmoid; did you mean tanh\?"),
        ({"phi": 3}, r"phi is 3; it takes one of"),
        ({"weight": "1,,2"}, r"weight is 1,,2; it takes 1 to 4 numbers with commas between, each from -3 to 3"),
        ({"weight": [0, 9]}, r"weight is 9; it takes 1 to 4 numbers"),
        ({"weight": [0] * 5}, r"weight is 5 numbers; it takes 1 to 4 numbers"),
        ({"weight": []}, r"weight is 0 numbers"),
        ({"weight": {"a": 1}}, r"weight is \{'a': 1\}"),
        ({"wieght": 1}, r"lab toy: there is no setting 'wieght'; did you mean weight\?"),
        ({"zzz": 1}, r"there is no setting 'zzz'; there are depth, rate"),
    ],
)
def test_a_bad_setting_has_one_message_with_what_is_allowed(given: dict[str, object], message: str) -> None:
    with pytest.raises(UnvanishError, match=message) as caught:
        settled(**given)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_bounds_themselves_are_allowed() -> None:
    assert settled(depth=1).depth == 1
    assert settled(depth=100_000).depth == 100_000
    with pytest.raises(UnvanishError):
        settled(depth=100_001)


def test_a_preset_stands_between_defaults_and_what_is_given() -> None:
    chain = lab.get("chain")
    s = chain.settle("004-50", weight=0.2)
    assert (s.depth, s.weight, s.activation) == (50, (0.2,), "sigmoid")
    with pytest.raises(UnvanishError, match=r"lab chain: there is no preset '004-5'; did you mean 004"):
        chain.settle("004-5")


def test_names_of_experiments() -> None:
    names = [each.name for each in lab.experiments()]
    assert {"activations", "chain", "phase", "ravine", "unstable", "width"} <= set(names)
    assert names == sorted(names)
    for each in lab.experiments():
        assert each.doc and each.question.endswith("?"), each.name
        assert all(parameter.help for parameter in each.settings), each.name
    with pytest.raises(UnvanishError, match=r"the lab has no experiment 'chian'; did you mean chain"):
        lab.run("chian")
    for hidden in ("parameters", "outcome", "../chain", ""):
        with pytest.raises(UnvanishError, match="the lab has no experiment"):
            lab.get(hidden)


def test_registration_refuses_what_cannot_be_right() -> None:
    def silent(s: lab.Settings, progress: lab.Progress) -> lab.Outcome:
        return lab.Outcome(sentence="")

    def spoken(s: lab.Settings, progress: lab.Progress) -> lab.Outcome:
        """Says what it does."""
        return lab.Outcome(sentence="")

    with pytest.raises(ValueError, match="toy needs a docstring"):
        lab.experiment("toy", title="", question="")(silent)
    lab.get("chain")
    with pytest.raises(ValueError, match="chain is registered twice"):
        lab.experiment("chain", title="", question="")(spoken)
    with pytest.raises(ValueError, match="toy has the pace 'fast'; it is one of live, short, long"):
        lab.experiment("toy", title="", question="", pace="fast")(spoken)
    wrong = lab.Parameter("depth", 0, "layers", 1, 5)
    with pytest.raises(UnvanishError, match="depth is 0"):
        lab.experiment("toy", title="", question="", settings=(wrong,))(spoken)
    with pytest.raises(ValueError, match=r"toy belongs into the file toy\.py of unvanish/lab"):
        lab.experiment("toy", title="A toy", question="Does it?")(spoken)
    spoken.__module__ = "unvanish.lab.toy"
    with pytest.raises(ValueError, match="toy needs a title and a question with its question mark"):
        lab.experiment("toy", title="A toy", question="It does")(spoken)
    with pytest.raises(ValueError, match="toy: the settings depth need a help text"):
        lab.experiment("toy", title="A toy", question="Does it?", settings=(lab.Parameter("depth", 3, ""),))(spoken)
    assert "toy" not in [each.name for each in lab.experiments()]


def test_an_outcome_survives_json() -> None:
    again = lab.Outcome.from_json(OUTCOME.to_json())
    assert again.rows[0] == OUTCOME.rows[0]
    assert again.rows[1]["share"] != again.rows[1]["share"]
    assert again.pictures == OUTCOME.pictures and again.checks == OUTCOME.checks
    assert again.replace(rows=()) == OUTCOME.replace(rows=())
    assert not again.ok
    assert json.loads(OUTCOME.to_json())["rows"][0]["log10_g"] == "-inf"
    for text, message in (
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"schema": "x"}', "expected a JSON"),
    ):
        with pytest.raises(UnvanishError, match=message):
            lab.Outcome.from_json(text)


def test_the_text_shows_numbers_and_not_logarithms() -> None:
    text = str(OUTCOME)
    assert text.splitlines()[0] == OUTCOME.sentence
    assert "Settings: depth 3  weight 0.17  quick true" in text
    assert "-10^-1371.250" in text and "–" in text and "sign" not in text
    assert "ok: a sum: 1, expected 1" in text
    assert "FAILED: a claim: 2, expected 1" in text
    assert text.endswith("A note.")
    assert repr(OUTCOME) == text


def test_long_tables_are_folded_and_say_so() -> None:
    rows = tuple({"layer": layer} for layer in range(100))
    lines = str(OUTCOME.replace(rows=rows, columns=(lab.Column("layer"),))).splitlines()
    assert "⋮ 76 more" in "\n".join(lines)
    assert sum(line.strip().isdigit() for line in lines) == 24


def test_csv_has_every_row_and_column() -> None:
    lines = list(csv.DictReader(io.StringIO(OUTCOME.to_csv())))
    assert [line["layer"] for line in lines] == ["1", "2"]
    assert lines[1]["log10_g"] == "-1371.25" and lines[0]["log10_g"] == "-inf"
    assert lines[0]["share"] == "" and lines[0]["who"] == "a,b"


def test_the_page_shows_text_and_never_runs_it() -> None:
    page = OUTCOME.replace(pictures=()).to_html()
    assert "It is &lt;small&gt; &amp; gone." in page
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")


def test_saving(tmp_path: Path) -> None:
    kept = OUTCOME.replace(pictures=())
    for suffix in ("json", "csv", "html", "txt"):
        kept.save(tmp_path / f"x.{suffix}")
        assert (tmp_path / f"x.{suffix}").stat().st_size > 50
    with pytest.raises(UnvanishError, match=r"the suffix '.doc' names no known format"):
        kept.save(tmp_path / "x.doc")
    with pytest.raises(UnvanishError, match="picture 0 was asked for; it has 0"):
        kept.save(tmp_path / "x.svg")


def test_stopping_reaches_the_experiment() -> None:
    def stop(share: float, what: str) -> None:
        raise lab.Stopped

    with pytest.raises(lab.Stopped):
        lab.run("ravine", progress=stop)


def test_one_experiment_loads_neither_the_others_nor_torch() -> None:
    program = (
        "import sys; from unvanish import lab; assert 'numpy' not in sys.modules; lab.get('chain');"
        "assert not {'torch', 'altair', 'unvanish.lab.phase'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_quick_limits_numbers_and_lists_and_the_outcome_names_what_was_run() -> None:
    parameters = (
        lab.Parameter("steps", 300, "", 1, 10_000, quick=150),
        lab.Parameter("hidden", (1.0, 2.0, 3.0, 5.0, 10.0, 20.0), "", 1, 100, quick=3),
        lab.Parameter("seeds", 3, ""),
        lab.Parameter("quick", False, ""),
    )

    def plain(**given: object) -> dict[str, object]:
        return settle(parameters, given, "lab toy", {}).plain()

    assert plain() == {"steps": 300, "hidden": [1, 2, 3, 5, 10, 20], "seeds": 3, "quick": False}
    assert plain(quick=True) == {"steps": 150, "hidden": [1, 3, 20], "seeds": 3, "quick": True}
    assert plain(quick=True, steps=20, hidden=(1, 20)) == {"steps": 20, "hidden": [1, 20], "seeds": 3, "quick": True}
    short = lab.run("speeds", quick=True, epochs=700, hidden=2, images=100)
    assert (short.settings["epochs"], short.settings["seeds"]) == (110, 3)
    assert short.pictures[0].data[-1]["step"] == 109
    assert "epochs 110" in str(short) and "folder" not in str(short)


def test_rows_of_sentences_stand_below_each_other_and_are_wrapped() -> None:
    long = " ".join(["words"] * 30)
    rows = tuple({"name": f"row {place}", "says": f"{long} {place}."} for place in range(30))
    columns = (lab.Column("name"), lab.Column("says"))
    checks = tuple(lab.Check(f"check {place}", None, "right", place != 7) for place in range(20))
    outcome = lab.Outcome(sentence=f"{long}.", columns=columns, rows=rows, checks=checks, notes=(long,))
    lines = lab_text.render(outcome, 60).splitlines()
    assert max(map(len, lines)) <= 60
    assert [line for line in lines if line.startswith("row")] == [f"row {place}" for place in range(30)]
    assert sum(line.startswith("  says: words") for line in lines) == 30
    # further lines stand below the first one's words
    assert lines[lines.index("row 0") + 2].startswith("        words")
    assert "Checks: 19 of 20 hold, these do not:" in lines and "  FAILED: check 7: right" in lines
    assert not [line for line in lines if "check 8" in line]
    assert f"  says: {long} 0." in lab_text.render(outcome).splitlines()


def test_networks_of_an_experiment_take_one_thread_and_give_the_others_back() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(ZeroDivisionError), one_thread():
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
