"""The networks of the zoo, one row each: what is wrong with it, and the answers that are right. No torch here."""

from __future__ import annotations

from unvanish.zoo.listing_doubtful import DOUBTFUL
from unvanish.zoo.listing_sequences import SEQUENCES
from unvanish.zoo.listing_steps import STEPS
from unvanish.zoo.listing_treated import TREATED
from unvanish.zoo.network import Network

CHAINS = (
    Network(
        name="chain-4", builder="chains.chain", options={"depth": 4}, expects=("vanished", "healthy"), codes=("UV101",),
        about="4 sigmoid neurons in a row, w = 0.17: a gradient that shrinks by 10^3.8 and can be checked by hand",
    ),
    *(
        Network(
            name=f"chain-{depth}", builder="chains.chain", options={"depth": depth}, expects=("vanished",),
            codes=("UV101",), layers={"0": "vanished", str(2 * depth - 2): "healthy"},
            about=f"{depth} sigmoid neurons in a row, w = 0.17: each step back multiplies the gradient by 0.042",
        )
        for depth in (20, 50, 200)
    ),
)  # fmt: skip

MLPS = (
    Network(
        name="sigmoid-20", builder="mlps.mlp", options={"depth": 20}, expects=("vanished",), codes=("UV101",),
        layers={"0": "vanished", "18": "vanished", "38": "healthy"}, learns=False,
        about="20 sigmoid layers of width 64 on MNIST digits, default initialisation",
    ),
    Network(
        name="sigmoid-20-width-256", builder="mlps.mlp", options={"depth": 20, "width": 256}, expects=("vanished",),
        codes=("UV101",), layers={"0": "vanished", "38": "healthy"}, learns=False,
        about="20 sigmoid layers of width 256 on MNIST digits: width does not help",
    ),
    Network(
        name="sigmoid-50", builder="mlps.mlp", options={"depth": 50}, expects=("vanished",), codes=("UV101",),
        layers={"0": "vanished", "98": "healthy"}, learns=False,
        about="50 sigmoid layers of width 64: the gradient at the input is below float32's range",
    ),
    Network(
        name="stuck-sigmoid-10", builder="mlps.stuck", options={"depth": 10}, expects=("vanished",), codes=("UV101",),
        layers={"0": "vanished"}, learns=False,
        about="10 sigmoid layers trained until stuck at the class frequencies: weight gradients look even",
    ),
    Network(
        name="xavier-sigmoid-20", builder="mlps.mlp", options={"depth": 20, "init": "xavier"}, expects=("vanished",),
        codes=("UV101",), layers={"0": "vanished", "38": "healthy"}, learns=False,
        about="20 sigmoid layers with Xavier initialisation, which does not fit a slope of 1/4",
    ),
    Network(
        name="exploding-linear-30", builder="mlps.mlp",
        options={"depth": 30, "activation": "Identity", "init": "standard-normal"}, expects=("exploding", "nonfinite"),
        codes=("UV202",), learns=False,
        about="30 linear layers of width 64 with N(0, 1) weights: signals grow by 8 a layer, forward and back",
    ),
    Network(
        name="exploding-relu-12", builder="mlps.mlp",
        options={"depth": 12, "width": 128, "activation": "ReLU", "init": "standard-normal"}, expects=("exploding",),
        codes=("UV202",), learns=False, about="12 ReLU layers of width 128 with N(0, 1) weights: growth by 8 a layer",
    ),
    Network(
        name="batchnorm-relu-50", builder="mlps.mlp", options={"depth": 50, "activation": "ReLU", "norm": True},
        expects=("exploding",), codes=("UV203",), about="50 ReLU layers with batch normalisation",
    ),
    Network(
        name="batchnorm-relu-80", builder="mlps.mlp", options={"depth": 80, "activation": "ReLU", "norm": True},
        expects=("exploding",), codes=("UV203",), about="80 ReLU layers with batch normalisation",
    ),
    Network(
        name="chaotic-tanh-50", builder="mlps.mlp", options={"depth": 50, "activation": "Tanh", "init": "chaotic"},
        expects=("exploding",), codes=("UV201",),
        about="50 tanh layers with weights of standard deviation 3/sqrt(n): errors grow towards the input",
    ),
    Network(
        name="dead-relu", builder="mlps.dead_relu", expects=("dead",), codes=("UV301",),
        layers={"0": "dead", "2": "dead"}, learns=False,
        about="a ReLU layer with biases of -100: off for every sample",
    ),
    Network(
        name="dead-units", builder="mlps.dead_units", expects=("dead_units",), codes=("UV303",),
        about="95 of a ReLU layer's 100 units are off for every sample",
    ),
    Network(
        name="dead-channels", builder="convs.dead_channels", expects=("dead_units",), codes=("UV303",),
        about="30 of a convolution's 32 channels are off for every image",
    ),
    Network(
        name="saturated-sigmoid", builder="mlps.saturated", options={"activation": "Sigmoid", "times": 100.0},
        expects=("saturated",), codes=("UV304",),
        about="sigmoid layers with weights 100 times too large: on their flat ends",
    ),
    Network(
        name="saturated-tanh", builder="mlps.saturated", expects=("saturated",), codes=("UV304",),
        about="tanh layers with weights 30 times too large: on their flat ends",
    ),
    Network(
        name="unscaled-inputs", builder="mlps.unscaled_inputs", expects=("input_scale",), codes=("UV707",),
        about="inputs in the hundreds into a sigmoid layer",
    ),
    Network(
        name="raw-pixels", builder="mlps.raw_pixels", expects=("input_scale",), codes=("UV707",),
        about="pixels from 0 to 255 into a tanh network made for 0 to 1",
    ),
    Network(
        name="all-zero-weights", builder="mlps.all_zero", expects=("saddle",), codes=("UV403",),
        layers={"0": "saddle", "2": "saddle"}, learns=False,
        about="every weight and bias zero: each layer waits for another",
    ),
)  # fmt: skip

HEALTHY = (
    Network(
        name="relu-he-20", builder="mlps.mlp", options={"depth": 20, "activation": "ReLU", "init": "he"},
        expects=("healthy",), learns=True, about="20 ReLU layers with He initialisation",
    ),
    Network(
        name="tanh-orthogonal-50", builder="mlps.mlp", learns=True,
        options={"depth": 50, "activation": "Tanh", "init": "orthogonal"}, expects=("healthy",),
        about="50 tanh layers with orthogonal weights",
    ),
    Network(
        name="selu-20", builder="mlps.mlp", options={"depth": 20, "activation": "SELU", "init": "lecun"},
        expects=("healthy",), learns=True, about="20 SELU layers with LeCun initialisation",
    ),
    Network(
        name="batchnorm-relu-20", builder="mlps.mlp", options={"depth": 20, "activation": "ReLU", "norm": True},
        expects=("healthy",), learns=True, about="20 ReLU layers with batch normalisation, default initialisation",
    ),
    Network(
        name="residual-50", builder="convs.residual", options={"blocks": 25}, expects=("healthy",), learns=True,
        about="25 pre-normalised residual blocks of two layers each",
    ),
    Network(name="small-cnn", builder="convs.small_cnn", expects=("healthy",), learns=True, about="two convolutions"),
    Network(
        name="relu6-cnn", builder="convs.relu6_cnn", expects=("healthy",), learns=True,
        about="two convolutions with batch normalisation and ReLU6",
    ),
    Network(
        name="raw-pixels-batchnorm", builder="mlps.raw_pixels", options={"norm": True}, expects=("healthy",),
        learns=True, about="pixels from 0 to 255 into a network that normalises them first",
    ),
    Network(
        name="sigmoid-output", builder="wiring.sigmoid_output", expects=("healthy",), learns=True,
        about="a sigmoid and the binary cross-entropy that belongs to it",
    ),
    Network(
        name="unet-small", builder="convs.unet", expects=("healthy",), learns=True,
        about="a U-Net of two resolutions that removes noise from digits",
    ),
    Network(
        name="two-branch", builder="convs.two_branch", expects=("healthy",), learns=True,
        about="a branch of one layer and a branch of four, concatenated",
    ),
    Network(
        name="densenet-small", builder="convs.densely_connected", expects=("healthy",), learns=True,
        about="every layer sees the outputs of all layers before it",
    ),
    Network(
        name="shared-module-twice", builder="convs.shared_twice", expects=("healthy",), learns=True,
        layers={"shared": "healthy", "shared#2": "healthy"}, about="one linear layer, applied two times",
    ),
    Network(
        name="preln-transformer-6", builder="transformers.pre_norm", options={"depth": 6}, expects=("healthy",),
        learns=True, about="6 pre-norm transformer layers over the rows of a digit",
    ),
    Network(
        name="small-gpt", builder="transformers.gpt", expects=("healthy",), learns=True,
        about="a GPT of two blocks whose head is tied to its token embedding",
    ),
    Network(
        name="lstm", builder="transformers.lstm", expects=("healthy",), learns=True,
        about="an LSTM over the 28 rows of a digit",
    ),
    Network(
        name="loss-scaled-1e-6", builder="nonfinite.scaled_loss", options={"scale": 1e-6}, expects=("healthy",),
        about="a healthy network with its loss multiplied by 10^-6: small gradients, nothing wrong",
    ),
    Network(
        name="converged-digits", builder="mlps.converged", expects=("converged",), codes=("UV401",),
        about="a small network that has learned its 32 digits: the gradient is tiny because the loss is used up",
    ),
    Network(
        name="least-squares-optimum", builder="training.least_squares", options={"signal": 1.0},
        expects=("converged",), codes=("UV401",), learns=False,
        about="least squares at its optimum: a quarter of the loss is noise, and nothing is left to gain",
    ),
    Network(
        name="zero-head", builder="mlps.zero_head", expects=("gated",), codes=("UV603",), learns=True,
        layers={"0": "gated", "2": "gated", "4": "gated"},
        about="the last layer starts at zero and opens in the first step",
    ),
    Network(
        name="rezero", builder="convs.residual", options={"blocks": 6, "gate": 0.0}, expects=("gated",),
        codes=("UV603",), layers={"1.inner": "gated", "1.outer": "gated"}, learns=True,
        about="residual branches behind trainable gates that start at zero",
    ),
    Network(
        name="layerscale-1e-5", builder="convs.residual", options={"blocks": 6, "gate": 1e-5, "gate_width": 64},
        expects=("gated",), codes=("UV603",), layers={"1.inner": "gated", "1.outer": "gated"}, learns=True,
        about="residual branches scaled by a trainable vector that starts at 10^-5",
    ),
    Network(
        name="fixup", builder="convs.residual", options={"blocks": 6, "fixup": True}, expects=("gated",),
        codes=("UV603",), layers={"1.inner": "gated"}, learns=True,
        about="the last layer of every residual branch starts at zero",
    ),
    Network(
        name="lora-zero-b", builder="wiring.lora", expects=("gated", "frozen"), codes=("UV603", "UV601"),
        layers={"0.a": "gated", "0.base": "frozen"}, learns=True,
        about="low-rank adaptation of frozen layers; B starts at zero",
    ),
    Network(
        name="frozen-backbone", builder="mlps.frozen_backbone", expects=("frozen",), codes=("UV601",),
        layers={"0": "frozen", "6": "healthy"}, learns=True, about="only the last layer is trained",
    ),
    Network(
        name="generator-frozen-discriminator", builder="wiring.generator", expects=("frozen",), codes=("UV601",),
        layers={"discriminator.0": "frozen", "generator.0": "healthy"}, learns=True,
        about="a generator trained through a discriminator that is not",
    ),
    Network(
        name="unused-expert", builder="wiring.unused_expert", expects=("unused",), codes=("UV602",), harmless=True,
        layers={"experts.3": "unused"}, learns=True,
        about="a mixture of experts, one of which gets no sample of this batch",
    ),
)  # fmt: skip

WIRING = (
    Network(
        name="postnorm-small-gain-60", builder="transformers.post_norm", options={"depth": 60}, expects=("vanished",),
        codes=("UV101",), layers={"embed": "vanished"}, learns=False,
        about="60 post-norm transformer layers with normalisation gains of 0.1",
    ),
    Network(
        name="postnorm-large-rate", builder="transformers.post_norm", options={"depth": 16, "gain": 1.0, "lr": 0.03},
        expects=("lr_too_large",), codes=("UV704",), learns=False,
        about="16 post-norm transformer layers under Adam at 0.03: sound before the first step, vanished after ten",
    ),
    Network(
        name="postnorm-small-rate", builder="transformers.post_norm", options={"depth": 16, "gain": 1.0, "lr": 3e-4},
        expects=("healthy",), learns=True, about="the same network at 0.0003: it trains",
    ),
    Network(
        name="softmax-one-unit", builder="wiring.softmax_one_unit", expects=("dead",), codes=("UV302", "UV706"),
        layers={"0": "dead", "2": "dead"}, learns=False, about="softmax over a single unit, which is always 1",
    ),
    Network(
        name="unused-layer", builder="wiring.unused_layer", expects=("unused",), codes=("UV602",),
        layers={"forgotten": "unused", "first": "healthy"}, about="a layer the forward pass never calls",
    ),
    Network(
        name="detached", builder="wiring.detached", expects=("unused",), codes=("UV602",),
        about="the features are detached before the last layer",
    ),
    Network(
        name="double-softmax", builder="wiring.double_softmax", expects=("pairing",), codes=("UV706",),
        about="softmax in the model and again in the cross-entropy",
    ),
    Network(
        name="double-sigmoid", builder="wiring.double_sigmoid", expects=("pairing",), codes=("UV706",),
        about="a sigmoid in the model and again in the binary cross-entropy",
    ),
    Network(
        name="relu-renormalised", builder="wiring.renormalised", expects=("pairing",), codes=("UV706",),
        about="a ReLU output divided by its sum for the cross-entropy: a zero has no way back",
    ),
    Network(
        name="softplus-renormalised", builder="wiring.renormalised_softplus", expects=("healthy",), learns=True,
        about="the same with a softplus, which never is exactly zero",
    ),
    Network(
        name="relu-on-logits", builder="wiring.relu_on_logits", expects=("dead",), codes=("UV301",),
        learns=False, about="a ReLU behind the last layer, all of whose outputs are negative",
    ),
)  # fmt: skip

NUMBERS = (
    Network(
        name="nonfinite-log", builder="nonfinite.log_of_negative", expects=("nonfinite",), codes=("UV501",),
        about="the logarithm of negative numbers in the forward pass",
    ),
    Network(
        name="nonfinite-sqrt0", builder="nonfinite.root_of_zero", expects=("nonfinite",), codes=("UV502",),
        about="a square root at exactly 0: finite forward, infinite slope",
    ),
    Network(
        name="overflow-exp", builder="nonfinite.overflowing_exp", expects=("nonfinite",), codes=("UV501",),
        about="exponentials as activations, overflowing in the third layer",
    ),
    Network(
        name="underflow-loss-1e-42", builder="nonfinite.scaled_loss", options={"scale": 1e-42},
        expects=("underflow",), codes=("UV503",),
        about="a healthy network with its loss multiplied by 10^-42 in float32",
    ),
    Network(
        name="half-precision-underflow", builder="nonfinite.scaled_loss", options={"scale": 1e-3, "half": True},
        expects=("underflow",), codes=("UV503",),
        about="float16 without loss scaling: most gradient entries are below 6e-5",
    ),
    *(
        Network(
            name=f"below-eps-{optimizer.lower()}", builder="nonfinite.scaled_loss",
            options={"scale": 1e-12, "optimizer": optimizer}, expects=("underflow",), codes=("UV504",),
            about=f"a healthy network with its loss multiplied by 10^-12 under {optimizer}, whose eps is 10^-8",
        )
        for optimizer in ("Adam", "RMSprop")
    ),
)  # fmt: skip

LOSSES = (
    Network(
        name="clamped-loss", builder="losses.clamped_loss", expects=("no_signal",), codes=("UV604",), learns=False,
        about="a loss clamped at 0.01: zero gradient far from any optimum",
    ),
    Network(
        name="flat-loss", builder="losses.flat_loss", expects=("flat_loss",), codes=("UV703",),
        about="a loss with 10^9 added to it, which no change of the outputs can move in float32",
    ),
    Network(
        name="flat-loss-regression", builder="losses.flat_regression", expects=("flat_loss",), codes=("UV703",),
        about="a squared error with 10^8 added to it, in a U-Net",
    ),
    Network(
        name="detached-loss", builder="losses.detached_loss", expects=("no_signal",), codes=("UV604",), learns=False,
        about="a loss of detached outputs: the right value and no derivative",
    ),
)  # fmt: skip

TRAINING = (
    Network(
        name="slow-quadratic", builder="training.ill_conditioned", expects=("slow",), codes=("UV404",), learns=False,
        about="curvatures 1 and 10^-5, SGD near its limit, the error in the flat direction",
    ),
    Network(
        name="slow-linear-10", builder="training.ill_conditioned", options={"features": 10}, expects=("slow",),
        codes=("UV404",), learns=False, about="the same with ten features, half of them flat",
    ),
    Network(
        name="lr-too-large", builder="training.sgd_digits", options={"lr": 10.0, "steps": 500},
        expects=("lr_too_large",), codes=("UV704",), about="SGD with a learning rate of 10 on a healthy network",
    ),
    Network(
        name="lr-too-small", builder="training.sgd_digits", options={"lr": 1e-6, "steps": 500},
        expects=("lr_too_small",), codes=("UV705",), learns=False,
        about="SGD with a learning rate of 10^-6 on a healthy network",
    ),
    Network(
        name="lr-too-large-adam", builder="training.adam_cnn", options={"lr": 10.0, "steps": 500},
        expects=("lr_too_large",), codes=("UV704",), about="Adam with a learning rate of 10 on a healthy CNN",
    ),
    Network(
        name="lr-too-small-adam", builder="training.adam_cnn", options={"lr": 1e-8, "steps": 500},
        expects=("lr_too_small",), codes=("UV705",), learns=False,
        about="Adam with a learning rate of 10^-8 on a healthy CNN",
    ),
    Network(
        name="lr-recovers", builder="mlps.mlp",
        options={"depth": 4, "activation": "ReLU", "init": "he", "lr": 0.06}, expects=("healthy",), learns=True,
        about="Adam with a learning rate of 0.06: the first step raises the loss, the next ones make it good",
    ),
    Network(
        name="plateau-noise-labels", builder="training.noise_labels", expects=("plateau",), codes=("UV402",),
        learns=False, about="logistic regression on labels drawn by lot, at its optimum",
    ),
    Network(
        name="plateau", builder="training.least_squares", expects=("plateau",), codes=("UV402",), learns=False,
        about="a least-squares optimum that is no better than the mean",
    ),
    Network(
        name="output-range", builder="training.output_range", expects=("output_range",), codes=("UV701",),
        about="targets up to 35 for a sigmoid output",
    ),
    Network(
        name="output-range-relu", builder="training.output_range", options={"last": "ReLU", "mean": -25.0},
        expects=("output_range", "dead"), codes=("UV701",), about="negative targets for a ReLU output",
    ),
    Network(
        name="output-scale-relu", builder="training.output_scale", options={"scale": 1e4, "activation": "ReLU"},
        expects=("output_scale",), codes=("UV702",), learns=False,
        about="targets of 10,000 for a ReLU network that moves by 0.001 a step",
    ),
    Network(
        name="output-scale", builder="training.output_scale", expects=("output_scale",), codes=("UV702",), learns=False,
        about="targets of 1,000 for a network that moves by 0.001 a step",
    ),
)  # fmt: skip

NETWORKS = CHAINS + MLPS + HEALTHY + WIRING + NUMBERS + LOSSES + TRAINING + STEPS + TREATED + SEQUENCES + DOUBTFUL
