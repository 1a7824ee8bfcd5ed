"""What networks must share to run stacked, and the scales that tell them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unvanish.population.initialisations import KINDS, VARIANCES, centres, scales, variances_of
from unvanish.population.names import NAMES, NORMS, scale_of_skip

Array = NDArray[np.float64]
OUTPUTS = 10
"""Units of the last layer where there are no data to say how many; a narrower network has as many as it is wide."""
BATCH = 16
"""Samples where nothing is said; a chain of one unit a layer has one."""


@dataclass(frozen=True)
class Shape:
    """Fully connected networks: ``depth`` hidden layers of ``width``, each W x + b, norm, activation; a linear layer.

    ``skip``: whether the hidden layers after the first are branches around which the signal goes too. ``after``: the
    activation comes after their sum, in training alone; no grid asks for it.
    """

    depth: int
    width: int
    inputs: int
    outputs: int
    activation: str = "tanh"
    init: str = "default"
    norm: str = ""
    batch: int = BATCH
    skip: bool = False
    after: bool = False

    @property
    def kind(self) -> str:
        return KINDS[self.init]

    @property
    def centred(self) -> bool:
        """Whether layers fed by a sigmoid take its middle, ½, away."""
        return centres(self.init, self.activation)

    def fans(self, place: int) -> tuple[int, int]:
        """Fan out and fan in of a layer; ``place`` 0 is the first, ``depth`` the linear one at the end."""
        return (
            self.outputs if place == self.depth else self.width,
            self.inputs if place == 0 else self.width,
        )

    def scales(self, place: int, variances: Array) -> tuple[Array, Array]:
        """What unit weights and biases are multiplied by in each network, (P,) each; ``variances``: (2, P)."""
        fan_out, fan_in = self.fans(place)
        if self.init in VARIANCES:
            fan = 1 if self.init == "orthogonal" else fan_in
            return np.sqrt(variances[0] / fan), np.sqrt(variances[1])
        weight, bias = scales(self.init, self.activation, fan_out, fan_in, first=not place)
        return np.full(variances.shape[1], weight), np.full(variances.shape[1], bias)

    def variances(self, place: int, given: Array) -> tuple[Array, Array]:
        """σ_w² (fan-in times the variance of a weight) and σ_b² of a layer, (P,) each."""
        return variances_of(self.init, self.scales(place, given), *self.fans(place))

    @property
    def cost(self) -> float:
        """Floating-point operations of one network forward and back, about."""
        inner = self.width * self.width * (self.depth - 1) + self.width * (self.inputs + self.outputs)
        return 8.0 * self.batch * inner + 100.0 * self.batch * self.width * self.depth


def shape_of(settings: Mapping[str, Any], inputs: int = 0, outputs: int = 0) -> Shape:
    """The shape of a point's networks; ``settings``: varied and fixed names. 0: as wide as the network is.

    UnvanishError where the settings ask for what cannot be.
    """
    full = {name: settings.get(name, known.default) for name, known in NAMES.items()}
    width = full["width"]
    init = full["init"]
    if init == "default" and full["weight_variance"] is not None:
        init = "gaussian"
    chain = width == 1 and inputs <= 1
    return Shape(
        depth=full["depth"],
        width=width,
        inputs=inputs or width,
        outputs=outputs or min(width, OUTPUTS),
        activation=full["activation"],
        init=init,
        norm=NORMS[full["norm"]],
        batch=full["batch"] or (1 if chain and full["norm"] != "batch" else BATCH),
        skip=scale_of_skip(full["skip"], full["depth"]) > 0,
    )


def numbers_of(settings: Mapping[str, Any]) -> tuple[float, float, float]:
    """σ_w², σ_b² and the factor of the residual branches; 1 and 0 where the initialisation takes no variances."""
    weight = settings.get("weight_variance")
    return (
        1.0 if weight is None else float(weight),
        float(settings.get("bias_variance", 0.0)),
        scale_of_skip(settings.get("skip", 0.0), settings["depth"]),
    )
