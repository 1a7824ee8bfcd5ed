"""What the fields of the record of a sequence mean: TimeFacts."""

from __future__ import annotations

TIME = {
    "time": "How much of the error signal reaches each step of a sequence; only where the network goes along one.",
    "TimeFacts.layer": "The recurrent module; empty for the inputs of a network without one.",
    "steps": "How many steps the sequence has.",
    "at": "The steps of the lists, the first one 0; of a long sequence some of them.",
    "TimeFacts.log10_signal": (
        "Log10 of the error signal at the inputs of each step beside that of the last tenth of the steps, from random"
        " errors of the last outputs. Null: too small for its number type."
    ),
    "log10_loss_signal": "The same with the errors of the loss, wherever in the sequence they enter.",
    "log10_state": "The same as log10_signal at the hidden state of each step.",
    "TimeFacts.log10_gain": "Log10 of what one step back multiplies the error signal by, on average.",
    "horizon": (
        "How many steps at the end of the sequence get at least a thousandth of the last ones' signal; beyond its"
        " beginning, guessed from the mean step. Null where the signal does not fall."
    ),
    "log10_rise": (
        "How many decades the relative sensitivity of the outputs (signal times size) grows from what the module gives"
        " back to the inputs of the step where it is largest: above 2.5 the recurrence is chaotic. Null where it is not"
        " one call that runs through all steps."
    ),
    "smallest_horizon": "The same for the smallest normal number of the type.",
    "faint": "How many steps get less than a thousandth.",
    "lost": "How many steps get less than what rounding takes off the last ones; those that get none do not count.",
    "beyond": "How strongly what the targets ask depends on a step that gets less than 10^-4: a squared correlation.",
    "beyond_chance": "The share of shuffles of the samples in which the best of all steps does as well.",
    "within": "The same dependence on the steps that get more.",
    "by_chance": "The dependence that one in a hundred shuffles reaches.",
    "tried": "Real steps of the optimizer, tried and taken back where what is needed is out of reach; else 0.",
    "in_reach": "True if it was within reach after them.",
    "rising": "True if it was not, but more and more steps of the sequence were.",
    "states_unseen": "Why the states were not looked at, or what is left out of them; else empty.",
    "TimeFacts.why": "Why the sequence was not looked at; empty if it was.",
}
