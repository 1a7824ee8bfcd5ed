"""Which question a process answers next: worked out by hand for small queues."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from unvanish.trials.questions import Ahead, Describe, Look, Question, Train
from unvanish.trials.turns import FIRST, HERE, LIKELY, SPARE, SURE, Turns

OTHER = 0
A, B, C = (("a",), ("b",), ("c",))


def test_a_look_does_not_wait_for_the_one_who_has_the_copy_and_is_at_a_training() -> None:
    turns = Turns()
    turns.stood(OTHER, {(A, 0): 10})
    turns.stood(HERE, {})
    turns.add(Look(A, 0), SURE)
    assert turns.take(HERE, Look(A, 0)) is None  # it is free, and answers at once
    turns.add(Train(B, 0, 50), SURE)
    assert turns.take(OTHER) == Look(A, 0)
    turns.answered(OTHER, Look(A, 0), 0)
    assert turns.take(OTHER) == Train(B, 0, 50)
    turns.add(Look(A, 0), SURE)
    assert turns.take(HERE, Look(A, 0)) == Look(A, 0)


def waiting(*questions: Question, **more: tuple[int, ...]) -> Turns:
    turns = Turns(**more)
    for each in questions:
        turns.add(each, SURE)
    return turns


def test_this_process_takes_the_first_and_the_other_the_last() -> None:
    turns = waiting(Look(A, 0), Look(B, 0), Look(C, 0))
    assert turns.take(HERE) == Look(A, 0) and turns.take(OTHER) == Look(C, 0)
    assert turns.take(OTHER) == Look(B, 0) and turns.take(HERE) is None


def test_a_process_goes_on_with_its_own_copies() -> None:
    turns = waiting(Look(A, 0), Look(B, 0))
    for number in (HERE, OTHER):
        turns.answered(number, turns.take(number) or Look(C, 0), 0)
    for each in (Train(C, 0, 10), Train(B, 0, 10), Train(A, 0, 10)):
        turns.add(each, SURE)
    assert turns.take(HERE) == Train(A, 0, 10) and turns.take(OTHER) == Train(B, 0, 10)


def test_a_pair_goes_to_who_has_made_its_first_edit() -> None:
    turns = waiting(Look(A, 0), Look(B, 0))
    assert turns.take(HERE) == Look(A, 0) and turns.take(OTHER) == Look(B, 0)
    for each in (Look((*B, *C), 0), Look(C, 0), Look((*A, *C), 0)):
        turns.add(each, SURE)
    assert turns.take(HERE) == Look((*A, *C), 0) and turns.take(OTHER) == Look((*B, *C), 0)
    assert turns.take(OTHER) == Look(C, 0)


def test_a_copy_that_another_is_at_is_left_to_it() -> None:
    """The 300 steps it has before it are no longer than the 400 that this process would have, and end in one copy."""
    turns = Turns()
    turns.foresee([Ahead(A, 2, 100)])
    assert turns.take(OTHER) == Ahead(A, 2, 100)
    turns.add(Train(A, 2, 400), SURE)
    assert turns.take(HERE, Train(A, 2, 400)) is None
    turns.stood(OTHER, {(A, 2): 0, (B, 2): 400})
    turns.add(Train(B, 2, 400), SURE)
    # 405 steps of the first (the 100 it is at are the way there), 5 of the second, less half of the 105 it is at
    assert turns.take(HERE, Train(A, 2, 400)) is None
    turns.stood(OTHER, {(A, 2): 0, (B, 2): 300})
    assert turns.take(HERE, Train(A, 2, 400)) == Train(A, 2, 400)  # 457.5 there


def test_a_copy_of_another_is_trained_again_only_where_it_would_take_longer_to_wait() -> None:
    turns = Turns()
    turns.stood(OTHER, {(A, 0): 75, (B, 0): 75})
    turns.add(Train(A, 0, 100), SURE)
    assert turns.take(HERE) is None  # 100 steps and a new copy here, 25 there
    turns.add(Train(B, 0, 100), SURE)
    assert turns.take(HERE) is None  # the same here, 60 there
    turns.stood(OTHER, {(A, 0): 10, (B, 0): 0})
    assert turns.take(HERE) == Train(B, 0, 100)  # 200 there, and 95 when this one is done
    assert turns.take(HERE) is None and turns.take(OTHER) == Train(A, 0, 100)


def test_what_needs_no_more_steps_is_answered_at_once_by_who_has_it() -> None:
    turns = Turns()
    turns.stood(HERE, {(A, 0): 0, (B, 0): 0, (C, 0): 100})
    for each in (A, B, C):
        turns.add(Train(each, 0, 100), SURE)
    assert turns.take(OTHER) == Train(B, 0, 100)  # 305 steps wait there; C is not trained anew
    assert turns.take(HERE) == Train(C, 0, 100) and turns.take(HERE) == Train(A, 0, 100)


def test_a_description_waits_for_who_has_made_the_edit_unless_that_would_take_longer_than_what_it_imports() -> None:
    for backlog, taken in ((FIRST, False), (3 * FIRST, True)):  # half of what it is at counts
        turns = waiting(Train(B, 0, backlog))
        turns.stood(OTHER, {(A, 0): 10})
        turns.stood(HERE, {})
        assert turns.take(OTHER) == Train(B, 0, backlog)
        turns.add(Describe(A, 0), SURE)
        assert (turns.take(HERE, Describe(A, 0)) is not None) is taken
    turns = waiting(Train(B, 0, 50))
    turns.stood(OTHER, {(A, 0): 10})
    turns.stood(HERE, {(A, 1): 10})  # it has made that edit, and needs no import
    assert turns.take(OTHER) == Train(B, 0, 50)
    turns.add(Describe(A, 0), SURE)
    assert turns.take(HERE, Describe(A, 0)) == Describe(A, 0)


def test_one_that_has_gone_too_far_begins_anew() -> None:
    turns = Turns()
    turns.stood(OTHER, {(A, 0): 75})
    turns.add(Train(A, 0, 50), SURE)
    assert turns.take(HERE) == Train(A, 0, 50)


def test_what_the_race_stands_before_comes_first_elsewhere_and_in_its_turn_here() -> None:
    turns = waiting(Train(A, 0, 10), Train(B, 0, 10), Train(C, 0, 10))
    assert turns.next(OTHER) == Train(C, 0, 10)
    assert turns.next(OTHER, Train(A, 0, 10)) == Train(A, 0, 10)
    assert turns.next(HERE, Train(C, 0, 10)) == Train(A, 0, 10)
    turns = Turns()
    turns.add(Describe(A, 0), SPARE)
    turns.add(Describe(B, 0), SPARE)
    assert turns.next(HERE) == Describe(A, 0) and turns.next(HERE, Describe(B, 0)) == Describe(B, 0)


def test_likely_trainings_wait_for_the_sure_ones_and_go_on_in_one_place() -> None:
    turns = waiting(Look(A, 0))
    turns.foresee([Ahead(B, 1, 25), Ahead(B, 1, 50), Ahead(C, 1, 25)])
    assert turns.take(OTHER) == Look(A, 0)
    assert turns.take(OTHER) == Ahead(B, 1, 25)
    assert turns.take(HERE) == Ahead(C, 1, 25)  # the next part of the other belongs to who has the first
    turns.answered(OTHER, Ahead(B, 1, 25), 25)
    assert turns.take(HERE) is None and turns.take(OTHER) == Ahead(B, 1, 50)


def test_a_sure_training_takes_the_place_of_its_likely_parts() -> None:
    turns = Turns()
    turns.foresee([Ahead(B, 1, 25), Ahead(B, 1, 50), Ahead(C, 1, 25)])
    turns.add(Train(B, 1, 50), SURE)
    assert len(turns) == 2 and turns.take(HERE) == Train(B, 1, 50) and turns.take(HERE) == Ahead(C, 1, 25)
    turns.foresee([Ahead(A, 1, 25)])
    turns.foresee([Ahead(A, 2, 25)])
    assert Ahead(A, 1, 25) not in turns and turns.take(OTHER) == Ahead(A, 2, 25)


def test_what_is_left_to_this_process_is_taken_by_no_other() -> None:
    turns = Turns()
    turns.add(Train(A, 0, 50), SURE, own=True)
    turns.stood(OTHER, {(A, 0): 40})
    assert turns.take(OTHER) is None and turns.take(HERE) == Train(A, 0, 50)


def test_one_that_keeps_no_copies_takes_them_in_order_and_trains_nothing_ahead() -> None:
    turns = waiting(Train(A, 0, 10), Train(B, 0, 10), forgetful=(OTHER,))
    turns.add(Ahead(C, 0, 10), LIKELY)
    assert [turns.take(OTHER) for _ in range(3)] == [Train(A, 0, 10), Train(B, 0, 10), None]


def test_the_copies_of_one_that_has_ended_are_nobodys() -> None:
    turns = Turns()
    turns.stood(OTHER, {(A, 0): 75})
    turns.add(Train(A, 0, 100), SURE)
    assert turns.take(HERE) is None
    turns.gone(OTHER)
    assert turns.take(HERE) == Train(A, 0, 100)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are copied on Linux only")
def test_a_copied_process_gives_the_answer_of_one_and_ends_with_it(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(COPIED.format(tests=str(Path(__file__).parent)))
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["before", "copied", "same"] and not done.stderr


COPIED = """
import sys
sys.path.insert(0, {tests!r})
print("before")  # still in the buffer when the process is copied

import os, threading
import torch
import unvanish
from unvanish.trials import crew
from unvanish.workers.forked import can_fork

torch.set_num_threads(1)
from test_fix_workers import Locked, assert_same, deep
from test_sweep_killed import children

assert can_fork()
made = []
crew.fork = lambda *given, kept=crew.fork: made.append(kept(*given)) or made[-1]
one = unvanish.fix(deep(metric=Locked()), seeds=2)  # a lock cannot be sent, and need not be
two = unvanish.fix(deep(metric=Locked()), seeds=2, workers=2)
print("copied" if made and all(made) else "not copied")
assert_same(one, two)
assert not children(os.getpid())
other = threading.Thread(target=threading.Event().wait, daemon=True)
other.start()
assert not can_fork()
print("same")
"""
