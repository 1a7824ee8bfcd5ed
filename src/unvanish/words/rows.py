"""The words about rows that become alike, samples that mix and activations on their flat ends, in plain language."""

from __future__ import annotations

ROWS = {
    "alike": "How alike rows (nodes, tokens) become; null where no two means over them follow one another.",
    "AlikeFacts.rows": "How many rows are averaged.",
    "AlikeFacts.calls": "The indices of the calls that average over rows and that no path goes around, in order.",
    "log10_spread": "Log10 of 1 less the mean cosine between two rows after each of them; -inf for rows all alike.",
    "stable_rank": "After each of them the stable rank, ‖H‖²_F / σ₁²: 1 where all rows point the same way.",
    "AlikeFacts.given": "Log10 of 1 less the mean cosine between two rows before the first of them.",
    "digits": "The same number for rows that differ by no more than rounding.",
    "best_alike": "The lowest loss of outputs that are the same for all rows; null where the outputs are no rows.",
    "at_alike": "True where the loss is no better than that.",
    "out_of_reach": "The share of the achievable reduction of the loss that such outputs cannot win.",
    "pinned": "Activations on their flat ends before a loss without a scale.",
    "PinnedFacts.call": "The index of the activation.",
    "PinnedFacts.asked": (
        "Of what the loss asks of the activation, in squares, the share that would move entries away from a flat end."
    ),
    "passed": (
        "Where the loss follows at once: the gradient that passes the activation, as a share of what would pass it with"
        " inputs of size 1. Null elsewhere."
    ),
    "undone": (
        "Of all entries, the share of flat ones that send a gradient back in spite of their slope: a call after the"
        " activation, such as the logarithm of 1 - tanh², makes up for it."
    ),
    "across": "Softmaxes, normalisations, recurrent layers and attention over the samples of the batch.",
    "AcrossFacts.call": "The index of the call.",
    "axis": "The axis of its result that holds the samples; of a recurrent layer or an attention, that of its steps.",
    "AcrossFacts.shape": "The shape of its result; of a recurrent layer or an attention, of what it is given.",
    "pieces": (
        "Where a recurrent layer or an attention is given each sample in pieces: the places of its other axis that the"
        " entries of one sample lie in. 0 elsewhere."
    ),
    "copies": "Layers all of whose units have the same weights and get the same, or nearly the same, gradient.",
    "CopyFacts.layer": "The layer.",
    "units": "How many units it has.",
    "apart": (
        "The rms difference of its units' gradients from their mean, relative to that; 0 where neither weights, biases"
        " nor gradients differ."
    ),
    "labels": "Labels that the loss takes and does not mean; null where there are none.",
    "LabelFacts.call": "The index of the call of the loss.",
    "LabelFacts.kind": (
        "unsigned: 0 and 1 where the loss knows -1 and 1; beyond: labels outside of 0 to 1; several: samples with"
        " several ones under a softmax; mixed: rows of classes whose entries a view has taken from several steps;"
        " no logarithms: numbers that the loss takes for log-probabilities, and of which none was taken."
    ),
    "LabelFacts.share": (
        "The share of such labels: zeros, labels beyond, samples with several ones, or mixed rows; of no logarithms the"
        " mean |log Σ exp|, of the axis along which it is least."
    ),
    "functions": "Functions of the user's own whose backward is not the derivative of their forward.",
    "BackwardFacts.call": "The index of the first call that shows it.",
    "BackwardFacts.function": "The name of its class.",
    "BackwardFacts.source": "The line that applied it; empty where it is not known.",
    "BackwardFacts.argument": "The argument of its forward for which it sends something else back.",
    "BackwardFacts.kind": (
        "flat: it sends something back only for outputs that do not change with the argument, as a straight-through"
        " estimator does; identity: it hands the argument on unchanged, as a gradient reversal does; other."
    ),
    "BackwardFacts.factor": "What it multiplies the derivative by; null where it gives no multiple of it.",
    "BackwardFacts.error": "The rms of what it gives less the derivative, relative to the derivative.",
    "BackwardFacts.layers": "The layers whose gradients pass it.",
    "rise": (
        "Where a step of these layers against their gradient raises the loss in proportion to its length: by how much"
        " of the fall that the gradient promises. Null elsewhere."
    ),
    "InputFacts.steps": "Real steps taken on these inputs, where these look too small or too large; else null.",
    "InputFacts.after": "The loss of the batch after these steps on the inputs as they are.",
    "after_standardised": "The same on standardised inputs.",
    "steps_standardised": "The steps that took, where they are not as many; null otherwise.",
    "small": "Whether it is small inputs that are spoken of.",
    "same": "Outputs that are the same for all samples, or steps, although targets differ; null where they are not.",
    "SameFacts.samples": "How many samples, or steps of each sample, have them.",
    "SameFacts.axis": "The axis of the outputs along which they are the same: 0 for samples, 1 or 2 for steps.",
    "read": (
        "What of the inputs such outputs are made of: a part that is the same for all samples, others that are the"
        " same, the batch as a whole, nothing; or nothing that differs, where all inputs are the same. Or any constant,"
        " where the loss only compares the outputs with one another."
    ),
    "SameFacts.apart": (
        "By what outputs under such a loss differ, in squares: as a share of their length, where the loss does not"
        " ask for that, else of what they differ by at other weights. 0 in all other cases."
    ),
    "stopped": "Trainable tensors that learn nothing in layers of which others learn, and what stops their signal.",
    "StoppedFacts.layer": "The layer, of which another tensor learns.",
    "StoppedFacts.parameters": "The full names of its tensors that get nothing.",
    "StoppedFacts.by": "The step that every way from them to the loss goes through; with cut, what cut them out.",
    "StoppedFacts.at": "The source line of the cut; else empty.",
    "StoppedFacts.cut": "True if they are taken out of the graph before they meet any data.",
    "bypassed": "Cuts that take a part of their signal from layers which other ways to the loss train.",
    "BypassFacts.kind": "A sum with one summand cut; a choice, which has no gradient; a state cut between turns.",
    "BypassFacts.cut": "What cut it: detach, no_grad, or the name of a call without a gradient.",
    "BypassFacts.cut_at": "The source line of the cut.",
    "BypassFacts.at": "The source line where what was cut is consumed.",
    "BypassFacts.layers": "The trained layers before the cut.",
    "PairFacts.partly": "True if the model has other outputs, which were left as they are.",
    "PinnedFacts.rows": "Of a softmax: the share of its rows of which one entry has all but 1/400.",
}
