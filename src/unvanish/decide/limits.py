"""The limits by which a layer is judged, each with the reason for its value."""

VANISHED = -2.5
"""Limit of log10 T_rel. Of 367 labelled layers every vanished one lay at -2.73 or below and every other one at -0.78 or
above, so any limit from -2.6 to -0.9 separates them equally well; this one is on the side of silence."""

VANISHED_ADAPTIVE = -4.5
"""Limit of log10 T_rel below which vanishing is an error under Adam and its like, whose step is about the learning rate
in every entry however small the gradient is (above eps): weak layers then learn, too, if later than the others. Of
random chains of 4 to 14 layers without normaliser, all at -2.6 to -4.1 fitted under Adam, most far better than with
their weak layers frozen; of sigmoid chains at -5.3 and less none did. Between the two."""

BESIDE = -3.0
"""The same limit for a layer beside a way that carries the signal, so that some layer before it transmits well. Gains
of five stock models lie at -2.5 to -2.85 there while the models train; the labelled vanished layers stood in chains,
where all that comes before a vanished layer transmits less."""

SOUND = -1.5
"""Limit of log10 T_rel above which a layer transmits well."""

EXPLODING = 2.5
"""Limit of the growth of the relative sensitivity outside normalised layers, in decades. Networks that train lie at 1.4
or below (20 and 50 layers of BatchNorm and ReLU 0.5, 50 of SELU 1.3, linear 0.5, He-initialised ReLU 0.9); tanh and
sigmoid networks that do not, at 3.0 or above (20 tanh layers of weights 3/sqrt(n) 3.0, 10 of N(0,1) 3.7)."""

FORWARD_GROWTH = 2.5
"""Decades by which the results of layers may grow on their way forward; only beside FORWARD_LOSS is more a fault."""

FORWARD_LOSS = 10.0
"""Times the loss of the best constant output from which on a loss is out of all proportion."""

UNDERFLOW = 0.5
"""Share of the truly non-zero gradient entries below the smallest normal number of their type: the larger part is
lost or rounded to a few bits."""

DEAD_UNITS = 0.9
"""Share of a layer's units that are flat for every sample; half-dead ReLU layers are healthy."""

BALANCED = 0.1
"""Share of the gradient that is left once weight decay pulls at the weights too; vectors of many entries never cancel
so far by chance."""

DECAYS_FAST = 1.0 - 0.5**0.01
"""Share of the weights (0.7%) that decay alone takes at every step, from which on it is looked at: half of them are
gone in 100 steps or fewer. Ordinary settings take 700 (SGD at 0.1, momentum 0.9, decay 1e-3) to 70,000 (AdamW at 1e-4,
decay 0.1), and weights that a training of thousands of steps is to keep do not fit into such a memory."""

ALIKE = -3.0
"""log10 of 1 less the mean cosine between rows from which on they count as alike, where the loss shows that they are:
what tells them apart is then a thirtieth of what they share or less. At 10^-2.7 or more, graph convolutions of two and
four layers fit most of a feature of each node's own; at 10^-5.5 and less, eight and more fit nothing but the mean."""

TRAINED_ALIKE = -5.5
"""The same, at the narrowest place of a network that has been trained for a while, from which on it is an error. Graph
convolutions that had learned nothing after a hundred steps lay there at -5.0 and less: of those at -5.4 and more some
told the nodes apart within three hundred steps more, of those at -5.6 and less none did, at three rates."""

MIXED = -6.5
"""The same before the loss can show anything. Two layers of attention without a skip start at 10^-5.1 to 10^-5.9 and
train, because its weights can still sharpen; graph convolutions and attention at 10^-7.6 and less never told rows apart
at any of three rates. Between the two."""

GATE_SIZE = 0.03
"""Share of the norm it would have at an ordinary initialisation, below which a trainable tensor is meant to be opened
by training, as LayerScale's 1e-5 and ReZero's 0 are."""

UNTOLD = 0.01
"""Of the mean square by which outputs, or their directions, differ at weights moved by the size of an initialisation,
the share below which nothing is left to tell samples apart by, under a loss that only compares outputs. Networks of two
views lay at 0.4 and above with the gradient stopped on one side, and came to 0.009 and less within a thousand steps
without: those of one layer far below, and eight layers of ReLU to that."""

ANY_CONSTANT = "any constant"
"""What such outputs have become (``SameFacts.read``): one constant, whichever it is."""

OWN_BRANCH = "own branch: "
"""How the text of a layer's gate begins where it is none: the layer's own short branch, beside a trunk that carries the
signal, weakens it. Query and key weights at an ordinary initialisation get 10^-3 to 10^-6 of it from an attention that
is still nearly uniform, in transformers that then train: they wait for nothing and learn by themselves."""

EACH_OTHER = "each other: "
"""How that text begins where the layer is as small, and leaves the small tensor next to nothing to learn by: each is as
a gate to the other, and none opens by itself."""

SWITCHED_OFF = "a factor of zero"
"""What cuts a layer off (``UnusedFacts.cut``) that is in the graph: a constant it is multiplied by, beside a way that
goes on. A penalty whose weight is zero and a branch that is not yet warmed up are no dead units."""

NOT_CHOSEN = "no sample"
"""The same of a layer of whose results a mask, an index or weights of zero take nothing on this batch, and others' all
the same: beside layers of its kind that are in use, it is an expert that no sample was sent to."""

STATE = "state"
"""The kind of a cut (``BypassFacts.kind``) between two turns of a loop, through which the same layers go again."""

NO_LOGARITHMS = "no logarithms"
"""What is odd (``LabelFacts.kind``) about numbers that a loss takes for log-probabilities."""

NO_MASS = 0.1
"""|log Σ exp| of log-probabilities that rounding does not explain: float16 leaves about a hundredth."""

CHOICES = ("argmax", "argmin", "round", "floor", "ceil", "sign", "gt", "lt", "ge", "le", "eq", "bucketize")
"""Calls without a gradient that choose (``Cut.name``), and are no way to stop one on purpose, as a detach is."""

PLACES = ("topk", "sort", "argsort", "max", "min")
"""Calls whose places have no gradient: what only these of their results make use of is chosen by, too."""

HORIZON = 10_000
"""Steps of a training whose length nobody has named."""

CONVERGED = 1e-3
"""Share of the achievable reduction of the loss; with less than a thousandth left there is nothing worth a gradient."""

STATIONARY = 1e-3
"""Share of L_ref that a quadratic model still promises; below, the gradient is as good as zero where it stands."""

PLATEAU = 0.98
"""Share of the way from the lowest loss up to that of the best constant output from which on a loss is no better."""

FLAT = 1e-6
"""Share of itself by which the loss must move to count as reacting: about the rounding of float32."""

SUSPECT = -0.75
"""log10 of a layer's alignment with the loss. At -0.85 a true optimum was missed by a limit of -1.5; above -0.75 the
gradient does not cancel and a decrement need not be computed."""

STUCK = 100
"""Steps after which a loss at its best constant counts as staying there; a fresh network begins there."""
