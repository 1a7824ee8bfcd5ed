"""Every activation once: what it is called in the lab, in torch, in a trace and in dks, and what remedies know of it.

φ and φ′ themselves, as arithmetic without torch, are in ``unvanish.theory.activations``, which asks here for the names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

INF = math.inf


@dataclass(frozen=True)
class ActivationEntry:
    """One activation.

    ``name``: in the lab and the theory. ``function``: of torch, with its full path; "" where there is none. ``module``:
    the class in torch.nn that is this function and nothing more; "" where there is none. ``arguments`` and ``options``:
    what function and class are given behind the tensor. ``traced``: what a trace calls it where that is not the name of
    the function. ``label``: in a sentence; "" for the name.

    ``formula``: the theory has φ and φ′. ``between_layers``: a call of that name is the activation between two layers,
    in whose place a remedy may put another; not so for what programs use elsewhere too (erf, sin), nor for shrinkage.
    ``gate``: it is also what opens and closes gates. ``rectifies``: it lets through one half of the numbers.

    ``limits``: the largest lower and the smallest upper bound of φ. ``critical``: σ_w² (variance of the weights times
    fan-in) and σ_b² at which χ₁ = 1: of the sigmoids without biases, of tanh at σ_b² = 0.05, of the others at variance
    1 (Schoenholz et al. 2017); None where there are no such numbers. ``dks``: its name in the package dks.
    """

    name: str
    module: str = ""
    function: str = ""
    limits: tuple[float, float] = (-INF, INF)
    critical: tuple[float, float] | None = None
    arguments: tuple[float, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    traced: str = ""
    label: str = ""
    formula: bool = True
    between_layers: bool = True
    gate: bool = False
    rectifies: bool = False
    dks: str = ""

    @property
    def call(self) -> str:
        """The name that a call of it has in a trace."""
        return self.traced or self.function.rpartition(".")[2] or self.name

    @property
    def title(self) -> str:
        return self.label or self.name.replace("_", " ")

    @property
    def bounded(self) -> bool:
        return max(map(abs, self.limits)) < INF

    @property
    def made(self) -> str:
        """The module as source: ``LeakyReLU(0.1)``."""
        return f"{self.module}({', '.join(self._given)})"

    def called(self, inner: str) -> str:
        """The function of ``inner`` as source: ``torch.nn.functional.leaky_relu(inner, 0.1)``."""
        return f"{self.function}({', '.join([inner, *self._given])})"

    @property
    def _given(self) -> list[str]:
        return [*map(repr, self.arguments), *(f"{key}={value!r}" for key, value in self.options)]


F = "torch.nn.functional."
ENTRIES = (
    ActivationEntry(
        "sigmoid", "Sigmoid", "torch.sigmoid", (0, 1), (103.00755385551928, 0.0), gate=True, dks="sigmoid"
    ),
    ActivationEntry("tanh", "Tanh", "torch.tanh", (-1, 1), (1.7609546396067386, 0.05), gate=True, dks="tanh"),
    ActivationEntry("erf", "", "torch.erf", (-1, 1), (1.7562036827601817, 0.18413967780745277), between_layers=False),
    ActivationEntry(
        "relu", "ReLU", "torch.relu", (0, INF), (2.0, 0.0), label="ReLU", rectifies=True, dks="leaky_relu"
    ),
    ActivationEntry(
        "leaky_relu_0.01", "LeakyReLU", F + "leaky_relu", critical=(2.0 / (1.0 + 0.01**2), 0.0), arguments=(0.01,),
        label="leaky ReLU", rectifies=True, dks="leaky_relu",
    ),
    ActivationEntry(
        "leaky_relu_0.2", "LeakyReLU", F + "leaky_relu", critical=(2.0 / (1.0 + 0.2**2), 0.0), arguments=(0.2,),
        label="leaky ReLU", rectifies=True, dks="leaky_relu",
    ),
    ActivationEntry(
        # no class: nn.PReLU is this function only until its slope is trained
        "prelu", "", F + "leaky_relu", arguments=(0.25,), label="PReLU", formula=False, between_layers=False
    ),
    ActivationEntry(
        "elu", "ELU", F + "elu", (-1, INF), (1.4967774354352865, 0.03466025200920109), label="ELU", dks="elu"
    ),
    ActivationEntry(
        "selu", "SELU", "torch.selu", (-1.7580993408473766, INF), (0.9332058017780294, 0.06679419822197064),
        label="SELU", dks="selu",
    ),
    ActivationEntry("celu", "CELU", "torch.celu", (-1, INF), (1.4967774354352865, 0.03466025200920109), label="CELU"),
    ActivationEntry(
        "gelu", "GELU", F + "gelu", (-0.16997121, INF), (2.1936999035323947, 0.0671916747056337), label="GELU",
        dks="gelu_exact",
    ),
    ActivationEntry(
        "gelu_tanh", "GELU", F + "gelu", (-0.17004075, INF), (2.1938588163160273, 0.06718502840790508),
        options=(("approximate", "tanh"),), label="GELU",
    ),
    ActivationEntry(
        "silu", "SiLU", F + "silu", (-0.27846454, INF), (2.6351686598789623, 0.06247150022516679), label="SiLU",
        dks="swish",
    ),
    ActivationEntry("softplus", "Softplus", F + "softplus", (0, INF), dks="softplus"),
    ActivationEntry(
        "mish", "Mish", F + "mish", (-0.30884341, INF), (2.087317681972859, 0.05581814355145098), label="Mish"
    ),
    ActivationEntry("hardtanh", "Hardtanh", F + "hardtanh", (-1, 1), (1.4647947734915436, 0.244080131735663)),
    ActivationEntry("hardswish", "Hardswish", F + "hardswish", (-0.375, INF), (2.789155073086203, 0.07520717356422846)),
    ActivationEntry(
        "hardsigmoid", "Hardsigmoid", F + "hardsigmoid", (0, 1), (106.69822133400469, 0.0), gate=True
    ),
    ActivationEntry(
        "relu6", "ReLU6", F + "relu6", (0, 6), (2.000000003946351, 1.87628346193236e-09), label="ReLU6", rectifies=True
    ),
    ActivationEntry("softsign", "Softsign", F + "softsign", (-1, 1), (4.3922963608227965, 0.19614818041139737)),
    ActivationEntry("logsigmoid", "LogSigmoid", F + "logsigmoid", (-INF, 0), traced="log_sigmoid"),
    ActivationEntry("hardshrink", "Hardshrink", F + "hardshrink", formula=False, between_layers=False),
    ActivationEntry("softshrink", "Softshrink", F + "softshrink", formula=False, between_layers=False),
    ActivationEntry("tanhshrink", "Tanhshrink", F + "tanhshrink", formula=False, between_layers=False),
    ActivationEntry(
        "threshold_0.1", "Threshold", F + "threshold", (0, INF), arguments=(0.1, 0.0), formula=False,
        between_layers=False,
    ),
    ActivationEntry("sin", "", "torch.sin", (-1, 1), (1.7615941559557646, 0.23840584404423504), between_layers=False),
    ActivationEntry("identity", "Identity", critical=(1.0, 0.0), between_layers=False),
)  # fmt: skip
BY_NAME = {each.call: each for each in reversed(ENTRIES)} | {each.name: each for each in ENTRIES}
"""By name; and by the name of their calls, which several may share, the first of those."""
