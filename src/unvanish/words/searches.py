"""The words of a search for a repair and of its trials. Keys are those of the glossary."""

from __future__ import annotations

TRIAL = {
    "remedy": "The names of the changes that were tried together.",
    "edits": "The changes one by one.",
    "change": "What the changes do, in words.",
    "score": "The mean score after the trial trainings; null if it was not scored or not finite.",
    "score_spread": "The lowest and the highest score among them.",
    "baseline": "The score of the network without the change, after as many steps.",
    "Trial.steps": "The length of each trial training, in optimizer steps.",
    "Trial.seeds": "How many trainings were averaged.",
    "judged": "True if the scores are on data that played no part in choosing the remedy.",
    "Trial.needed": "How much better than the baseline a score must be to count.",
    "helped": "True if the gain was judged and is more than the spread of the trainings can explain.",
    "Trial.reason": "Why it is not the answer; empty if it is.",
    "Trial.code": "Python text that makes the change without this package.",
}

# Of a name that a record has too, the bare entry stands in SEARCH and that record has a dotted one.
SEARCH = {
    "learned": (
        "How far the loss of the accepted change came, or without one that of the network as it is: 0 is the best"
        " constant output's, 1 the lowest there is."
    ),
    "learned_in_training": "The same on the last training batches, where learned is of data that did not train it.",
    "still_falling": "Whether the training loss of that change, or network, still fell when its trial ended.",
    "verdict": "Of a search: nothing to repair, repaired, improved, or no remedy found.",
    "trials": "Of a search: every change that was tried and measured, the judged one first, then the best.",
    "best": "Of a search: the trial that was accepted; None where none was.",
    "model": "Of a search: the copy with the accepted change, trained as in the trial with the first seed.",
    "code": "Of a search: the Python text of the accepted change, which needs no unvanish.",
    "before": "Of a search: the report on the network as it is, before any step.",
    "after": "Of a search: the report on the changed network, before any step; None where nothing was accepted.",
    "as_is": "Of a search: the network as it is, as a trial: what the others are compared with.",
    "unseen": "Of a search: True if scores were taken on validation data; False if on the data of the training.",
    "split": "Of a search: True if other data chose than judged.",
    "planned": "Of a search: the optimizer steps of one full training.",
    "budget": "Of a search: the optimizer steps that all of its trainings together may take.",
    "spent": "Of a search: the optimizer steps that its trainings took.",
    "seeds": "Of a search: how many trainings were to judge the choice, and as many the network as it is.",
    "refused": "Of a search: the remedies that do not apply to this network, each with the reason.",
    "cut_off": "Of a search: the changes that were tried last, because a layer stays without signal after them.",
    "remarks": "Of a search: what was not done, and what should be known when its answer is read.",
    "interrupted": "Of a search: True if it was stopped before its end; the answer is then the best so far.",
    "state": "Of a search: its measurements, from which a later search of the same problem goes on.",
    "patch": "Of a search: the change as a diff of your file, where it is a literal swap in it; else empty.",
    "patched": "Of a search: the text of your file after that diff.",
    "patch_refused": "Of a search: why there is no diff.",
}
