"""The rows of the networks whose optimizer's step does not arrive."""

from __future__ import annotations

from unvanish.zoo.network import Network

STEPS = (
    Network(
        name="half-precision-eps", builder="steps.sixteen_bits",
        options={"dtype": "float16", "optimizer": "Adam", "lr": 1e-3}, expects=("nonfinite",), codes=("UV505",),
        learns=False, about="Adam on float16 weights: its eps of 1e-8 is zero there",
    ),
    Network(
        name="half-precision-rate", builder="steps.sixteen_bits",
        options={"dtype": "float16", "optimizer": "SGD", "lr": 6e4, "scale": 3e3}, expects=("nonfinite",),
        codes=("UV505",), learns=False, about="a learning rate that takes float16 weights beyond 65,504",
    ),
    Network(
        name="half-precision-moment", builder="steps.sixteen_bits",
        options={"dtype": "float16", "optimizer": "RMSprop", "lr": 1e-3, "scale": 5e4, "eps": 1e-4, "alpha": 0.9},
        expects=("nonfinite",), codes=("UV505",),
        about="a loss scaled so far that the squares of the gradient leave float16",
    ),
    Network(
        name="lr-1e10", builder="training.sgd_digits", options={"lr": 1e10, "steps": 500},
        expects=("lr_too_large",), codes=("UV704",), learns=False, about="SGD with a learning rate of 10^10",
    ),
    Network(
        name="bfloat16-adamw", builder="steps.sixteen_bits",
        options={"dtype": "bfloat16", "optimizer": "AdamW", "lr": 1e-5}, expects=("underflow",), codes=("UV506",),
        about="AdamW at 1e-5 on bfloat16 weights: most of each step is rounded away",
    ),
    Network(
        name="bfloat16-small-rate", builder="steps.sixteen_bits",
        options={"dtype": "bfloat16", "optimizer": "AdamW", "lr": 1e-6}, expects=("underflow", "lr_too_small"),
        codes=("UV506",), learns=False, about="AdamW at 1e-6 on bfloat16 weights: hardly any of a step arrives",
    ),
    Network(
        name="decay-coupled", builder="steps.signs", expects=("decay",), codes=("UV406",),
        about="SGD with a weight decay of 0.3, where it balances the gradient",
    ),
    Network(
        name="decay-decoupled", builder="steps.signs",
        options={"decoupled": True, "decay": 3.0, "lr": 3e-3, "steps": 3000},
        expects=("decay",), codes=("UV406",), about="AdamW with a weight decay of 3, where it balances the step",
    ),
    Network(
        name="left-out", builder="steps.left_out", options={"held": 2}, expects=("left_out",), codes=("UV605",),
        harmless=True, about="an optimizer that holds the last layer alone, none of them frozen",
    ),
    Network(
        name="left-out-front", builder="steps.left_out", options={"held": 0}, expects=("left_out",), codes=("UV605",),
        harmless=True, about="an optimizer that holds the first layer alone",
    ),
    Network(
        name="ascent", builder="steps.ascent", expects=("uphill",), codes=("UV710",), learns=False,
        about="a hand-made optimizer that adds the gradient instead of taking it away",
    ),
    Network(
        name="backward-turned", builder="steps.turned", expects=("uphill",), codes=("UV710",), learns=False,
        about="a custom function at the end whose backward pass has the wrong sign",
    ),
)  # fmt: skip
