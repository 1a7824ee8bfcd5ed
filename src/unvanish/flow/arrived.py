"""What a step of the optimizer does to one parameter, as it arrives there and against its decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Pull(NamedTuple):
    """How weight decay pulls at a parameter.

    ``without``, ``whole``: decay that is added to the gradient: |g| and |g + λw|. Decay of the weights themselves
    (AdamW): the norms of the step without it and with it. ``weights``: |w|; ``taken``: the norm of what a step takes
    from them by the decay alone, for SGD once its momentum has built up. Where decay is added to a gradient that is
    then divided by its own size: what halves the weights as soon as the steps would, if the decay is most of it.
    """

    without: float
    whole: float
    weights: float
    taken: float


@dataclass(slots=True)
class Arrival:
    """How a step arrives in one parameter: entries not finite, and of those asked to move the ones that do.

    ``wanted``: the step it is asked to make, squared; ``given``: the one that it makes along that.
    """

    bad: int
    bad_state: bool
    bad_gradient: bool
    asked: int
    moved: int
    wanted: float
    given: float
