"""The words about the optimizer's steps, in plain language."""

from __future__ import annotations

STEP = {
    "step": "What the optimizer's next step would do, tried on the batch and taken back; null if it was not tried.",
    "StepFacts.optimizer": "The class of the optimizer whose step was tried.",
    "lr": "The learning rate.",
    "StepFacts.loss": "The loss before the step.",
    "ladder": "Multiples of the next step and the loss after each of them.",
    "StepFacts.best": "The multiple of the next step with the lowest loss; null if none lowers it.",
    "lowered": "The largest fall of the loss on it, less its uncertainty, as a share of the achievable reduction.",
    "needed": "How many steps it takes to close 90% of the gap at the pace of the first one.",
    "taken": "How many steps the optimizer has made already, by its own count; null where it keeps none.",
    "StepFacts.planned": "How many steps are planned; null if no number was given.",
    "walked": "The loss after a few steps really taken, and taken back; null if nothing asked for them.",
    "walked_scaled": "The same with the learning rate times `scale`.",
    "scale": "What the learning rate was multiplied by for the second walk.",
    "lengths": (
        "How far each of a few steps really taken moved the weights, at a rate so large that rounding does not count;"
        " empty if nothing asked for them."
    ),
    "scheduled": "The learning rate that a schedule began from, or leads up to, over the present one; 1 without one.",
    "rates": (
        "Where six real steps at the learning rate, and then at three times or a tenth of it, took the network; tried"
        " only where many additions are each followed by a normaliser."
    ),
    "RateTrial.scale": "The multiple of the learning rate.",
    "RateTrial.lr": "The learning rate of the trial.",
    "RateTrial.steps": "How many steps were taken.",
    "RateTrial.loss": "The loss of the batch after them.",
    "RateTrial.log10_transmission": (
        "The smallest log10_transmission after them, among the layers that transmitted before; null where the network"
        " no longer gave finite numbers."
    ),
    "lr_limit": "The largest learning rate at which plain gradient descent is stable where the loss is steepest.",
    "StepFacts.after": (
        "How many real steps lead to where `best`, `needed` and `lr_limit` hold: 0, or a few where plain gradient"
        " descent crawls only after them."
    ),
    "arrived": (
        "Log10_transmission of the weakest of the layers that hardly any signal reaches, after that many real steps;"
        " null where none were taken."
    ),
    "arrived_after": "How many real steps that took; the network's state was put back.",
    "arriving": (
        "By how many decades a step log10_transmission of that layer still rose after them, steadily, where more steps"
        " would have cost a check too much; else null."
    ),
    "StepFacts.learned": (
        "The loss after them, where it has come at least half of the way down by what the layers that hardly any signal"
        " reached have learned, or nine tenths by what any have; else null."
    ),
    "regained": (
        "The loss after that many real steps, where it starts far above that of the best constant output; infinite"
        " where it is not a number there, null where no steps were taken."
    ),
    "regained_after": "How many real steps that took; the network's state was put back.",
    "silenced": (
        "The layers that had a gradient at the first of a few steps really taken and exactly none at the last; empty"
        " where nothing asked for them."
    ),
    "faded": (
        "The rate that a schedule began from, or leads up to, over the present one, where the optimizer has taken steps"
        " under it and keeps no count of them; else null."
    ),
    "forgetting": (
        "By what factor Adam's steps lengthen by themselves, halfway through those that are left, as its second moment"
        " forgets larger gradients; 1 for other optimizers, null where nothing asked for it."
    ),
    "decayed": (
        "The loss after that many real steps, where weight decay shrinks the weights fast; infinite where it is not a"
        " number there, null where no steps were taken."
    ),
    "undecayed": "The loss after as many steps without weight decay.",
    "decayed_after": "How many real steps that took; the network's state was put back.",
    "StepFacts.unseen": (
        "The loss of every other sample after that many real steps on the rest, where early layers may be exploding;"
        " where attention copies at random, that of a training batch after as many on the others. Null where no steps"
        " were taken."
    ),
    "unseen_after": "How many real steps that took; the network's state was put back.",
    "climbs": (
        "The cosine of the gradient and the optimizer's step, where no size of the next step that was tried lowers the"
        " loss: above 0 the step climbs, below 0 the loss does what the gradient denies; else null."
    ),
    "maximize": "Whether the optimizer was told to climb (maximize=True); only looked at where a step climbs.",
    "next_step": (
        "The weights and the optimizer's state as its next step leaves them in their own number type; null where it"
        " arrives as asked, or was not looked at."
    ),
    "NextStep.nonfinite": "The layers in which the next step leaves a number that is not finite.",
    "nonfinite_share": "The share of all entries that the next step makes infinite or not a number.",
    "reason": (
        "What makes them so: eps (zero in the weights' type), state (a moment overflows), gradient (so does it), rate."
    ),
    "moved": "Of the entries that the step asks to move, the share whose value changes once it is rounded.",
    "arrives": "The step that these entries make along the one that is asked for, as a share of it.",
    "narrow": "The type of 16 bits of the weights, where they have one; else empty.",
    "NextStep.outside": "Entries of trainable parameters that the model uses, but neither it nor the optimizer holds.",
    "NextStep.outside_at": "Where the first of them is used.",
    "anew": "Of these, those of layers that each forward pass makes anew, with weights drawn at random.",
    "NextStep.left_out": "Trainable layers that the optimizer does not hold: they stay as they are.",
    "partly": "Trainable parameters that the optimizer does not hold, of layers of which it holds others.",
    "stale": (
        "Entries that the optimizer holds in the place of all that it leaves out, and that the model has no more: it"
        " was made before they were replaced. 0 where that is not so."
    ),
    "drifting": "Frozen normalisations in train mode: each forward pass still moves their running statistics.",
    "standing": "Trainable layers that the optimizer holds at a learning rate of 0, beside others that it moves.",
    "decay_balance": (
        "The norm of gradient plus decay as a share of the gradient's: near 0, the pull of the weight decay cancels the"
        " gradient. Null where nothing decays."
    ),
    "decay_share": (
        "The share of their norm that a step takes from the weights by weight decay alone: learning rate times decay,"
        " for SGD over 1 less the momentum. Null where nothing decays."
    ),
}
