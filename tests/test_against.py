"""Two runs against each other: a seed is no difference; a learning rate and an initialisation are, where they begin."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from run_files import made as written

from unvanish import UnvanishError, load_run
from unvanish.cli import main
from unvanish.watching.against import SLACK, Against, against
from unvanish.watching.run_file import RunFile
from unvanish.watching.sample import Column, Sample

SCRIPT = """
import argparse, torch
from torch import nn
parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--then", type=float, default=1e-3)
parser.add_argument("--init", type=int, default=-1)
parser.add_argument("--sgd", action="store_true")
args = parser.parse_args()
torch.manual_seed(args.seed)
layers = [nn.Linear(20, 32), nn.ReLU()]
for _ in range(3):
    layers += [nn.Linear(32, 32), nn.ReLU()]
model = nn.Sequential(*layers, nn.Linear(32, 4))
if args.init >= 0:
    with torch.no_grad():
        model[args.init].weight.mul_(2.0)
optimizer = torch.optim.SGD(model.parameters(), 0.05) if args.sgd else torch.optim.Adam(model.parameters(), 1e-3)
for step in range(450):
    if step == 300 and not args.sgd:
        optimizer.param_groups[0]["lr"] = args.then
    x = torch.randn(64, 20)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), x[:, :4].argmax(1)).backward()
    optimizer.step()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("runs")
    (made / "train.py").write_text(SCRIPT, encoding="utf-8")
    return made


def run(folder: Path, name: str, *args: str) -> Path:
    path = folder / f"{name}.unvanish"
    if not path.exists():
        assert main(["run", "--every", "5", "-o", str(path), str(folder / "train.py"), *args]) == 0
    return path


def compared(one: Path, other: Path) -> Against:
    return against(load_run(one), load_run(other))


def test_a_run_and_its_repetition_are_identical(folder: Path) -> None:
    found = compared(run(folder, "base"), run(folder, "again"))
    assert found.answer == "identical" and found.parting is None
    assert (found.layers, found.steps) == (5, 90)


@pytest.mark.parametrize("seed", ["1", "2", "3"])
@pytest.mark.parametrize("optimizer", [(), ("--sgd",)], ids=["adam", "sgd"])
def test_another_seed_is_no_difference(folder: Path, seed: str, optimizer: tuple[str, ...]) -> None:
    base = run(folder, f"base{''.join(optimizer)}", *optimizer)
    found = compared(base, run(folder, f"seed{seed}{''.join(optimizer)}", "--seed", seed, *optimizer))
    assert found.answer == "within noise", found.sentence
    assert "the noise is a factor of" in found.sentence


@pytest.mark.parametrize("rate", ["1e-2", "1e-4", "3e-3"])
def test_another_learning_rate_shows_where_it_begins(folder: Path, rate: str) -> None:
    found = compared(run(folder, "base"), run(folder, f"rate{rate}", "--then", rate))
    assert found.answer == "differ" and found.parting is not None
    assert found.parting.step == 300 and found.parting.quantity == "update_to_weight_ratio"
    assert found.parting.also or rate == "3e-3"  # one optimizer holds them all
    assert found.parting.other - found.parting.one == pytest.approx(math.log10(float(rate) / 1e-3), abs=0.1)
    assert any("the learning rates differ from step 300 on" in note for note in found.notes)


def test_another_learning_rate_is_found_among_other_random_weights(folder: Path) -> None:
    """A factor of 30: what other weights of a network so narrow explain ends at a factor of four."""
    found = compared(run(folder, "base"), run(folder, "both", "--then", "3e-2", "--seed", "1"))
    assert found.parting is not None and 300 <= found.parting.step <= 310
    assert found.parting.quantity == "update_to_weight_ratio" and found.parting.limit > 0.3


@pytest.mark.parametrize("layer", ["0", "4", "8"])
@pytest.mark.parametrize("seed", ["0", "1"])
def test_a_changed_initialisation_is_seen_in_its_layer_at_the_first_step(folder: Path, layer: str, seed: str) -> None:
    other = run(folder, f"init{layer}-{seed}", "--init", layer, "--seed", seed)
    for found in (compared(run(folder, "base"), other), compared(other, run(folder, "base"))):
        assert found.answer == "differ" and found.parting is not None
        assert (found.parting.step, found.parting.layer) == (0, layer)
        assert found.parting.quantity == "log10_weight_norm"


def made(path: Path, change: Any = lambda step, row: row, *, steps: int = 100, seed: int = 0, layers: int = 3) -> Path:
    """A run of plain numbers: every layer's gradient has a noise of 0.1 decades; ``change(step, rows)``."""
    chance = random.Random(seed)
    file = RunFile(path, {})
    file.layers([Column(f"layer{at}", "Linear", 10_000) for at in range(layers)])
    for step in range(steps):
        rows = {at: [-1.0, -2.0 + chance.gauss(0.0, 0.1), 1.0, 1e-3, 0.0, 0.0, 0.0] for at in range(layers)}
        change(step, rows)
        file.sample(Sample(step, {at: tuple(row) for at, row in rows.items()}, {"loss": 1.0, "learning_rate": 0.1}))
    file.close()
    return path


def test_the_noise_is_that_of_the_difference_of_two_runs(tmp_path: Path) -> None:
    def later(step: int, rows: dict[int, list[float]]) -> None:
        rows[1][1] += 2.0 if step >= 60 else 0.0

    found = compared(made(tmp_path / "a.unvanish"), made(tmp_path / "b.unvanish", later, seed=1))
    assert found.parting is not None
    assert (found.parting.step, found.parting.layer, found.parting.quantity) == (60, "layer1", "log10_grad_norm")
    assert found.parting.noise == pytest.approx(0.1 * math.sqrt(2.0), rel=0.4)  # 48 changes tell a spread to a third
    assert "layer1" in found.sentence and "step 60" in found.sentence and found.parting.also == ()


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_no_difference_and_neither_is_one_odd_batch(tmp_path: Path, seed: int) -> None:
    def odd(step: int, rows: dict[int, list[float]]) -> None:
        rows[2][1] += 5.0 if step in (40, 41) else 0.0

    one = made(tmp_path / "a.unvanish", seed=seed, layers=40)
    assert compared(one, made(tmp_path / "b.unvanish", seed=100 + seed, layers=40)).answer == "within noise"
    assert compared(one, made(tmp_path / "c.unvanish", odd, seed=100 + seed, layers=40)).answer == "within noise"


def test_a_run_that_is_a_little_ahead_is_no_difference_and_one_that_is_far_ahead_is(tmp_path: Path) -> None:
    def at_pace(pace: float) -> Any:
        def falling(step: int, rows: dict[int, list[float]]) -> None:
            for row in rows.values():
                row[1] = -0.1 * pace * step  # a decade in ten steps, without noise

        return falling

    one = made(tmp_path / "a.unvanish", at_pace(1.0))
    assert compared(one, made(tmp_path / "b.unvanish", at_pace(1.2))).answer == "within noise"
    found = compared(one, made(tmp_path / "c.unvanish", at_pace(2.0)))
    assert SLACK < 2.0 and found.answer == "differ"


def test_a_number_that_is_not_finite_and_a_true_zero_differ_at_once(tmp_path: Path) -> None:
    def broken(step: int, rows: dict[int, list[float]]) -> None:
        rows[0][1] = math.inf if step == 99 else rows[0][1]

    found = compared(made(tmp_path / "a.unvanish"), made(tmp_path / "b.unvanish", broken))
    assert found.parting is not None and (found.parting.step, found.parting.layer) == (99, "layer0")
    assert json.loads(found.to_json())["parting"]["other"] == "inf"


def test_what_cannot_be_told_is_undecided(tmp_path: Path) -> None:
    short = compared(made(tmp_path / "a.unvanish", steps=5), made(tmp_path / "b.unvanish", steps=5, seed=1))
    assert short.answer == "undecided" and "from 8 on" in short.sentence
    file = RunFile(tmp_path / "empty.unvanish", {})
    file.close()
    assert compared(tmp_path / "a.unvanish", tmp_path / "empty.unvanish").answer == "undecided"


def test_what_only_one_of_them_has_is_said_and_hostile_names_are_shown_as_escapes(tmp_path: Path) -> None:
    one = made(tmp_path / "a.unvanish", layers=2)
    file = RunFile(tmp_path / "b.unvanish", {})
    file.layers([Column("layer0", "Linear", 5), Column("bad\x1b[31m\u202e", "Linear", 5)])
    for step in range(20):
        file.sample(Sample(step, {0: (-1.0, -2.0, 1.0, 1e-3, 0.0, 0.0, 0.0)}, {"loss": 1.0}))
    file.close()
    text = str(compared(one, tmp_path / "b.unvanish"))
    assert "only a.unvanish has layer1" in text and r"only b.unvanish has bad\x1b[31m\u202e" in text
    assert "of another size in the two: layer0" in text
    assert "\x1b" not in text and "\u202e" not in text


def test_show_compares_as_text_and_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        made(tmp_path / f"{name}.unvanish", seed=seed)
    assert main(["show", "a.unvanish", "--against", "b.unvanish"]) == 0
    assert "do not differ beyond their noise" in capsys.readouterr().out
    assert main(["show", "a.unvanish", "--against", "a.unvanish", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "identical"
    assert main(["show", "a.unvanish", "--against", "b.unvanish", "-o", "x.json"]) == 0
    assert json.loads((tmp_path / "x.json").read_text())["schema"] == "unvanish.against/1"
    assert main(["show", "a.unvanish", "--against", "b.unvanish", "--format", "html"]) == 2
    assert "as text or json" in capsys.readouterr().err
    with pytest.raises(UnvanishError, match="no run file"):
        load_run("c.unvanish")


def test_what_is_the_same_wherever_both_were_sampled_is_said_so(tmp_path: Path) -> None:
    """A shorter run, one sampled every fifth step, a layer that was renamed: the numbers in common are the same."""
    written(tmp_path / "a.unvanish", 100)
    written(tmp_path / "short.unvanish", 4)
    written(tmp_path / "renamed.unvanish", 100, names=["in", "other", "out"])
    found = against(load_run(tmp_path / "a.unvanish"), load_run(tmp_path / "short.unvanish"))
    assert (found.answer, found.steps) == ("within noise", 4)
    assert found.sentence == "Where both were sampled, the two runs have the same numbers: 3 layers at 4 steps."
    found = against(load_run(tmp_path / "a.unvanish"), load_run(tmp_path / "renamed.unvanish"))
    assert (found.answer, found.layers) == ("within noise", 2)
    assert "the same numbers: 2 layers at 100 steps" in found.sentence
    assert "only a.unvanish has mid" in found.notes and "only renamed.unvanish has other" in found.notes


def test_two_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for folder in ("today", "yesterday"):
        (tmp_path / folder).mkdir()
        written(tmp_path / folder / "a.unvanish", 20)
    runs = [load_run(tmp_path / folder / "a.unvanish") for folder in ("today", "yesterday")]
    found = against(*runs)
    assert (found.one, found.other) == tuple(str(each.path) for each in runs)
    assert against(runs[0], runs[0]).one == "a.unvanish"


def test_a_run_without_a_sample_is_named(tmp_path: Path) -> None:
    written(tmp_path / "a.unvanish", 20)
    RunFile(tmp_path / "b.unvanish", {"every": 1}).close()
    found = against(load_run(tmp_path / "a.unvanish"), load_run(tmp_path / "b.unvanish"))
    assert (found.answer, found.sentence) == ("undecided", "No step of b.unvanish was sampled.")
