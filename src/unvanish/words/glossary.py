"""The words of the reports in plain language: the fields of every record, the verdicts, and the field's terms.

Keys are a verdict word, a term, a field's name, or ``Record.field`` where a name means different things in two records.
"""

from __future__ import annotations

from unvanish.words.experiments import LAB
from unvanish.words.rows import ROWS
from unvanish.words.searches import SEARCH, TRIAL
from unvanish.words.steps import STEP
from unvanish.words.terms import TERMS
from unvanish.words.time_axis import TIME

VERDICTS = {
    "healthy": "Nothing wrong was found: the error signal arrives at a usable size.",
    "vanished": (
        "The error signal is almost gone when it arrives although there is still a lot to learn, so the layer"
        " hardly learns. Decided by log10_transmission, which neither the loss scale nor the learning rate changes;"
        " a small gradient alone is no proof."
    ),
    "exploding": (
        "The error signal grows at every step back, so a small change of an early layer changes the output beyond"
        " recognition: training is unstable. Decided by log10_sensitivity_rise."
    ),
    "dead": (
        "The layer's gradient is exactly zero and will stay so: a later call sends nothing back, such as a ReLU"
        " whose inputs are all negative, or a rounding. A true zero, not a number too small to store."
    ),
    "gated": (
        "A small or zero trainable factor on the way to the output (LayerScale, ReZero, LoRA's B) holds the layer"
        " back. It is usually intended: the factor learns first and opens the way."
    ),
    "saddle": (
        "The gradient is exactly zero because several tensors are zero at once, each waiting for another: by"
        " symmetry none of them starts. Moving away from zero brings the gradient back."
    ),
    "no_signal": (
        "The outputs depend on the layer, but the loss asks for no change at all: a detached target, a loss that"
        " does not use the output, a flat loss."
    ),
    "converged": (
        "The gradient is small because little is left to learn, not because it got lost. Decided by how much of the"
        " achievable reduction of the loss remains."
    ),
    "plateau": "Nothing moves any more, and the loss is no better than that of the best constant output.",
    "underflow": (
        "The gradient exists, but most of its entries are smaller than the smallest normal number of their type, so"
        " they lose digits or become zero. More range or a loss scale helps; another network is not needed."
    ),
    "frozen": "The layer does not take part in training: requires_grad is off.",
    "unused": "The layer's parameters play no part in this loss: no path leads from them to it.",
    "nonfinite": "A number became infinite or not a number (nan); from there on nothing can be learned or judged.",
    "undecided": "What was measured does not settle the question; the reason stands beside it. Neither good nor bad.",
    "not_asked": (
        "What this look asked for cannot tell: the question that would decide was left out, as it is while a training"
        " runs. Neither good nor bad; a full check asks it."
    ),
    "pairing": (
        "The last layer and the loss do not fit: the loss expects raw scores and gets something already normalised"
        " or clipped, such as a softmax before a cross-entropy."
    ),
    "input_scale": "The inputs have a scale the first layer cannot handle; standardising them takes the trouble away.",
    "saturated": (
        "Most entries of an activation sit where its slope is nearly zero, and the loss is not good: the flat parts"
        " pass no error signal back."
    ),
    "dead_units": (
        "Most units of a layer are zero for every sample of this batch, so they neither contribute nor learn."
    ),
    "output_range": "The last call cannot produce the wanted outputs: its range ends before them.",
    "output_scale": (
        "The wanted outputs are far larger than what the network produces: getting there takes too many steps."
    ),
    "flat_loss": "The loss barely changes whatever the outputs are, so it says nothing about how to improve.",
    "lr_too_large": "One real step of the optimizer raises the loss although a smaller step lowers it.",
    "uphill": "The optimizer's next step raises the loss whatever its size: it does not go against the gradient.",
    "lr_too_small": "The steps point the right way, but far more of them are needed than are planned.",
    "decay": "The pull of weight decay cancels the gradient, so training stands still short of the loss's minimum.",
    "collapsed": "All nodes, tokens or samples get the same features, so that no later layer can tell them apart.",
    "identical": (
        "All units of a layer have the same weights and get the same gradient, so they stay one unit; in a note, they"
        " get nearly the same."
    ),
    "left_out": "The layer is trainable, but the optimizer does not hold its parameters, or holds them at"
    " a learning rate of 0: it stays as it is.",
    "wiped": "The backward pass left a gradient, and when the optimizer steps nothing of it is there any more.",
    "skipped": "Steps were left out because the scaled loss overflowed: so a GradScaler looks for its scale.",
    "added_up": "The gradient of a step is still there when the next is computed, which is added to it.",
    "outdated": "The forward pass goes by weights of an earlier step, which autocast has kept.",
    "unmoved": (
        "The steps are so small beside the weights that nothing moves: the loss is so small, or the rate, or the"
        " gradient is clipped to nothing."
    ),
    "slow": (
        "The loss is steep in some directions and nearly flat in others; plain gradient descent must keep its steps"
        " small for the steep ones and crawls along the flat ones."
    ),
}

_REPORT = {
    "Report.schema": "The version of the report's format; programs that read reports check it first.",
    "Report.verdict": (
        "The report in one word: that of the first finding of level error, else of the first note, else healthy."
    ),
    "Report.healthy": "True if no finding has level error. Notes do not count.",
    "flow": "All that was measured and decided, as one record; in JSON its fields stand here beside the findings.",
    "findings": "The statements about the network, most severe first.",
    "layers": "The layers with their numbers, input side first.",
    "Report.undecided": "What was not decided, each with the reason.",
    "Flow.undecided": "What was not decided, each with the reason.",
    "calls": "The differentiable calls of the forward pass, in the order in which they ran.",
    "loss": "What the loss alone says, the outputs taken as free variables; null if it was not looked at.",
    "setting": "What was checked, and how.",
    "Report.notes": "Remarks about the check itself, such as that the model was in eval mode.",
    "zeros": "For each layer whose gradient is exactly zero, what happened when the zero tensors were moved a little.",
    "Report.nonfinite": "The pass, forward or backward, that met numbers which are not finite; empty if none did.",
    "Flow.nonfinite": "The pass, forward or backward, that met numbers which are not finite; empty if none did.",
    "decrement": (
        "By how much the layers that transmit could together still lower the loss, as a share of the achievable"
        " reduction."
    ),
    "decrement_refused": "Why that share could not be measured; empty if it was, or was not needed.",
    "asked": "What was asked for, by the names of the fields with the answers; absent where a check asked for all.",
    "nonfinite_call": "The index of the first call with a result that is not finite.",
    "birth": "What is known of that call, and of weights that hold such numbers already; null where there is nothing.",
    "numbers": "What the call made: nan, or inf.",
    "Birth.share": "The share of the entries of its result that are not finite.",
    "given": (
        "What it was given that was not finite already: inputs, targets, weights (computed of finite parameters),"
        " constant (without a gradient), mask (set to infinity on purpose); range (inputs beyond autocast's"
        " type); nothing where there was nothing to take a mean of; empty where it was given finite numbers."
    ),
    "maker": (
        "The call that made what it was given, where one was found. Where it was given nothing, why: empty, ignored"
        " (targets), weights (of 0), 0/0. Of a range, the largest input."
    ),
    "row": "True where it normalises a row that is -inf throughout, such as a softmax over a row masked whole.",
    "hidden_by": "The index of the call that replaces what it made, so that the loss is finite; null where none does.",
    "Birth.parameters": "Tensors of the model that hold numbers which are not finite already.",
}

_FINDING = {
    "Finding.code": "The number of the rule that speaks; `unvanish explain` and the code show its page.",
    "Finding.verdict": "The word for what was found.",
    "level": "error: training suffers from it; note: worth knowing, and never changes the exit status.",
    "Finding.layers": "The layers the finding holds for; empty if it is about the whole network.",
    "cause": "The factor to blame: slopes, weights, normalisers or joins; empty if it is none of them.",
    "message": "The finding in words, with its numbers.",
    "evidence": "The numbers the finding rests on.",
    "remedies": "Names of changes worth trying, most promising first.",
    "Evidence.name": "What was measured.",
    "Evidence.value": "The number that was measured.",
    "relation": "How the value stands to the threshold: < or >.",
    "threshold": "The limit at which the rule speaks.",
    "error": "The uncertainty of the value; null if it is exact or unknown.",
}

_CALL = {
    "index": "The number of the call in the order of the forward pass, from 0.",
    "CallFlow.name": "What was called, such as linear or relu.",
    "module": "The path of the module that was running.",
    "part": "Which part of the network ran it: the model or the loss.",
    "role": (
        "What kind of factor the call is: weights (it owns parameters), slopes (an activation), norm (a normaliser"
        " or softmax), join (an addition, a concatenation, anything else)."
    ),
    "CallFlow.inputs": "The indices of the calls whose results this call uses.",
    "next": "The index of the consumer that sends it most of the error signal: the next step of its dominant path.",
    "trunk": (
        "The calls every path must pass: no edge of the graph jumps over them. In a transformer, the residual"
        " stream after each addition."
    ),
    "finite": "False if the call's result holds an infinity or a nan.",
    "bounded": "True if the call cannot produce arbitrarily large values, such as a sigmoid.",
    "log10_rms": "Log10 of the root mean square of the call's result.",
    "log10_apart_rms": (
        "Of a recurrence of ReLUs, log10 of the root mean square of what its steps give each by itself: what more the"
        " result has, the state has grown by from step to step; null of other calls."
    ),
    "derivative": "Of a call of autograd.grad, 1 for a derivative, 2 for one of a derivative; 0 for other calls.",
    "CallFlow.log10_gain": "Log10 of what the call multiplies the error signal by on the way back.",
    "log10_sensitivity": (
        "Log10 of how strongly the outputs depend on the call's result, relative to its size: norm of the"
        " derivative times norm of the result."
    ),
}

_LAYER = {
    "LayerFlow.name": "The path of the module in the model; `#2` marks its second call in one forward pass.",
    "kind": "The class of the module.",
    "source": "The file and line of the call, or empty where it is unknown.",
    "LayerFlow.parameters": "How many numbers the layer learns.",
    "log10_signal": (
        "Log10 of the error signal: √N times the norm of the loss's derivative with respect to the layer's own"
        " output, N the batch size. For a loss that is a mean over samples it is the root mean square over samples,"
        " so samples that pull in opposite directions do not cancel."
    ),
    "log10_grad_norm": "Log10 of the norm of all the layer's parameter gradients together; -inf only for a true zero.",
    "log10_gain": (
        "Log10 of what one step back multiplies the error signal by, from this layer to the one before it. It is"
        " the sum of the four gains by factor."
    ),
    "log10_weight_gain": "The share of the calls with parameters in the gain of one step back.",
    "log10_slope_gain": "The share of the activations, by their slopes, in the gain of one step back.",
    "log10_norm_gain": "The share of the normalisers and softmaxes in the gain of one step back.",
    "log10_join_gain": "The share of the additions, concatenations and everything else in the gain of one step back.",
    "log10_transmission": (
        "Log10 of how strongly the outputs depend on the layer (Jacobian times size of its weights), relative to"
        " the best layer after it. Below -2.5 the signal has vanished; the loss scale and the optimizer do not"
        " change it."
    ),
    "newton_decrement": (
        "By how much moving this layer alone would still lower the loss, as a share of the achievable reduction. A"
        " lower bound by a quadratic model: ½ gᵀG⁻¹g with the Gauss-Newton curvature G, along the layer's gradient"
        " only; never more than relative_gap. Null where it was not needed or could not be measured."
    ),
    "log10_curvature": (
        "Log10 of the Gauss-Newton curvature along the layer's gradient: how fast the loss bends when the layer's"
        " weights move that way. A small gradient on a flat stretch is lost signal; one in a curved valley is a bottom."
    ),
    "steps_to_learn": "How many steps of the present optimizer the layer needs to get there; may be inf.",
    "saturated_fraction": "Share of an activation's entries where its slope is below 1% of its largest slope; of an"
    " attention, share of its rows that are one entry alone.",
    "dead_fraction": "Share of the units that pass nothing on for any sample of the batch.",
    "underflow_fraction": (
        "Share of the truly non-zero gradient entries below the smallest normal number of their type."
    ),
    "update_to_weight_ratio": (
        "Size of the optimizer's next step over the size of the weights, both root mean squares. A quick check takes"
        " Adam's step of more than 200,000 weights from a sample of them, which is right to 3%."
    ),
    "noise": (
        "True if the gradient cannot be told from the chance of which samples are in the batch. A flag beside the"
        " verdict, never a verdict."
    ),
    "LayerFlow.verdict": "The layer in one word.",
    "log10_alignment": (
        "Log10 of the layer's gradient over what it would be if the output's errors pointed in random directions. Far"
        " below 0 the errors cancel, as they do at an optimum."
    ),
    "log10_jacobian_norm": "Log10 of the norm of the derivative of the outputs with respect to the layer's weights.",
    "log10_weight_norm": "Log10 of the norm of the layer's weights.",
    "log10_sensitivity_rise": (
        "Decades by which the relative sensitivity at the layer exceeds the smallest one on its way to the output."
        " Above 2.5 the layer is exploding."
    ),
    "LayerFlow.frozen": "True if requires_grad is off for the layer's parameters.",
    "call": "The index of the layer's call; null if it is not in the graph.",
    "LayerFlow.before": "The layer before it on its dominant path: where one step back leads.",
    "gate": (
        'What alone explains a weak signal: small trainable tensors on the way to the output; after "own branch:", what'
        ' does in its own short branch beside a trunk that carries the signal; after "each other:", a small tensor that'
        " a layer as small leaves nothing to learn by."
    ),
    "LayerFlow.dtype": "The narrowest number type the layer's gradient passes through.",
}

_LOSS = {
    "LossFacts.value": "The loss.",
    "residual_norm": "Norm of the loss's derivative with respect to the outputs: how much the loss asks for.",
    "best_constant": "The loss of the best output that is the same for all samples: what knowing nothing achieves.",
    "best_free": "The lowest loss any output can reach; null if there is no lowest.",
    "reference": "L_ref, the achievable reduction of the loss from an untrained start; the scale for everything else.",
    "relative_gap": "The share of that reduction which remains.",
    "at_constant": "True if the outputs are practically the best constant.",
    "curvature": "How the loss bends with respect to the outputs, along a direction drawn at random.",
    "reacts": "False if the loss stays the same when the outputs are changed.",
    "LossFacts.targets": "Root mean square of the numbers that the outputs meet first in the loss; null for labels.",
    "why": "Why the loss has no scale, where it has none.",
}

_ENDS = {
    "output": "What the last call can give the loss; null if it was not looked at.",
    "OutputFacts.call": "The index of the last call before the loss.",
    "OutputFacts.kind": "What the last call is, such as softmax or relu.",
    "low": "The least value the last call can produce; null if its range is not known.",
    "high": "The largest value the last call can produce; null if its range is not known.",
    "unreachable": "The share of the achievable reduction that no input of the last call can reach.",
    "wanted": "How far the loss asks the outputs to move, as a root mean square.",
    "rms": "The root mean square of the outputs.",
    "aim": "That of the outputs with the lowest loss, as of the targets under a squared error.",
    "OutputFacts.end": "The index of the call whose range ends on one side of the outputs; see held.",
    "at_end": "The share of the outputs that lie exactly on that end.",
    "OutputFacts.held": (
        "The lowest loss while the outputs on the end of the model's last call stay there, as they do for want of a"
        " slope. Measured only where that call has one end and the loss normalises the outputs; null otherwise."
    ),
    "OutputFacts.constant": "The lowest loss of one output for all samples that the last call can give; see held.",
    "log_mass": (
        "How far the exponentials of what the loss takes for log-probabilities are from adding up to one, as the mean"
        " of |log Σ exp(output)|; null where it takes something else."
    ),
    "shrunk": (
        "The size of the last call's result over what it was before plain numbers multiply it (a constant behind the"
        " last layer); null where none does."
    ),
    "outside": "How far a target of a binary cross-entropy lies outside of 0 to 1 at most; null under another loss.",
    "pairs": "How outputs and targets meet in the loss; null where each output may have a target of its own.",
    "PairFacts.outputs": "The shape of what the loss is given of the outputs.",
    "targets": "The shape of the targets that meet them.",
    "shuffled": "The share of itself by which the loss changes when scattered outputs go to other samples.",
    "unasked": "How many samples, all of other targets than the rest, the loss asks nothing of at any outputs.",
    "constant": "The loss of the best constant output; of copies of one number, of that number.",
    "won": "What the best output wins over the best constant, as a share of what scattering the outputs costs.",
    "inputs": "The first layer on the inputs as they are and standardised; null if it was not looked at.",
    "InputFacts.layer": "The first layer.",
    "largest_deviation": "The rms of the largest input feature; of small inputs, its deviation from its mean.",
    "InputFacts.saturated": "Share of the entries after the first layer that are saturated.",
    "saturated_standardised": "The same share with standardised inputs: mean 0, deviation 1 for each feature.",
    "step_limit": "Log10 of the longest step the first layer allows, relative to the median layer.",
    "step_limit_standardised": "The same with standardised inputs.",
    "loss_standardised": "The loss of the batch with standardised inputs; null where it is not the last call.",
}

_ZERO = {
    "ZeroFacts.layer": "The layer whose gradient is exactly zero.",
    "opens": "True if a gradient came back when the exactly-zero tensors were moved a little.",
    "gates": "Zero tensors of other layers that have a gradient of their own and so will open the way.",
    "blocked_by": "The calls that receive an error signal and send none back.",
    "by_construction": "True if such a call passes no gradient on random input either: no training will open it.",
    "ZeroFacts.alike": "True if it is a batch normalisation and the samples of this batch are all the same.",
}

_UNUSED = {
    "Report.unused": "For each trainable layer without a gradient, why none reaches it.",
    "Flow.unused": "For each trainable layer without a gradient, why none reaches it.",
    "UnusedFacts.layer": "The trainable layer that no gradient reaches.",
    "called": "True if the layer ran, or its parameters were used.",
    "cut": (
        "What took its result out of the graph, while numbers made of it still reach the loss: detach, no_grad,"
        " checkpoint, or a call that has no gradient. In the graph: a factor of zero. Else empty."
    ),
    "cut_at": "The source line where that happened.",
    "feeds": "True if a layer that is trained works with what was cut off.",
    "library": "True if the forward pass of an installed package leaves the layer out, or cuts it off.",
    "conditional": "True if the forward pass calls the layer only under a condition.",
    "dropped": "True if nothing in the program reads what the layer returns.",
    "held": "True if the optimizer holds the layer, false if not; null without an optimizer.",
}

_SETTING = {
    "Setting.model": "The class of the model.",
    "Setting.parameters": "How many numbers the model learns.",
    "batch_size": "The number of samples in the batch; 0 where a watch saw no call of a model that tells it.",
    "Setting.dtype": "The number type of the parameters.",
    "device": "Where it was computed.",
    "mode": "train or eval: the mode the model was in.",
    "effort": "quick, auto or full: how much was measured.",
    "seed": "The seed of the check's own random numbers; the same seed gives the same report.",
    "eps": "The number the optimizer adds to its denominator; gradients far below it are ignored.",
    "exact": "True if the backward walk was carried through beyond the range of the number types.",
    "autocast": "The type of the autocast the model was checked under; empty if none.",
    "optimizer": "The class of the optimizer; empty if none was given.",
    "Setting.torch": "The version of torch that did the arithmetic.",
}

PARTS = (
    VERDICTS, _REPORT, _FINDING, _CALL, _LAYER, _LOSS, STEP, _ENDS, _ZERO, TIME, ROWS, _UNUSED, TRIAL, SEARCH,
    LAB, _SETTING, TERMS,
)  # fmt: skip
"""No key stands in two of them: the later would explain the field of another record."""

GLOSSARY: dict[str, str] = {key: text for part in PARTS for key, text in part.items()}

VERDICT_WORDS: tuple[str, ...] = tuple(VERDICTS)
"""The verdicts of layers and of whole models."""

FLAGS = ("noise",)
"""Words of findings that stand beside a verdict; each is explained under the field of the same name."""


def field_entry(record: str, field: str) -> str | None:
    """The entry for a field of a record: its own one if it has one, else that of the bare name."""
    return GLOSSARY.get(f"{record}.{field}", GLOSSARY.get(field))
