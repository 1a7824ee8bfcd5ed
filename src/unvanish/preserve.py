"""A check leaves no trace: whatever a forward pass moves is put back, also when it fails."""

from __future__ import annotations

import copy
import random
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = frozenset({dict, OrderedDict, defaultdict, list, set, deque})


@contextmanager
def untouched(model: nn.Module, seed: int, *also: Any) -> Iterator[None]:
    """Inside, random numbers follow from ``seed`` and gradients are None; afterwards buffers, gradients, random state,
    and what modules set on themselves are as before. What is a module in ``also`` (a loss with weights) is kept too."""
    modules = list(dict.fromkeys(m for root in (model, *also) if isinstance(root, nn.Module) for m in root.modules()))
    attributes = [(m.__dict__, dict(m.__dict__)) for m in modules]
    values = [value for _, before in attributes for value in before.values()]
    # Buffers, parameters, submodules and hooks are such containers too.
    contents = [(value, copy.copy(value) if value else ()) for value in values if type(value) in _CONTAINERS]
    parameters = [(p, p.grad, p.requires_grad) for root in modules for p in root._parameters.values() if p is not None]
    held = [b for m in modules for b in m._buffers.values() if b is not None]
    held += [value for value in values if isinstance(value, Tensor)]
    tensors = [(tensor, tensor.detach().clone()) for tensor in held]
    try:
        with torch.inference_mode(False), seeded(seed):
            for parameter, _, _ in parameters:
                parameter.grad = None
            yield
    finally:
        for own, before in attributes:
            for name in own.keys() - before.keys():
                del own[name]
            own.update(before)
        for container, before in contents:
            if not container and not before:
                continue
            container.clear()
            (container.update if hasattr(container, "update") else container.extend)(before)
        for parameter, gradient, trainable in parameters:
            if parameter.requires_grad != trainable:
                parameter.requires_grad = trainable
            parameter.grad = gradient
        with torch.no_grad():
            for tensor, before in tensors:
                if not torch.equal(tensor, before) or tensor.isnan().any():
                    tensor.copy_(before)


def random_states() -> Callable[[], None]:
    """What puts the random numbers of torch (on every device), numpy and Python back to where they are now."""
    numpy: Any = sys.modules.get("numpy")
    cpu, python = torch.get_rng_state(), random.getstate()
    of_numpy = numpy.random.get_state() if numpy else None
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def put_back() -> None:
        torch.set_rng_state(cpu)
        random.setstate(python)
        if of_numpy is not None:
            numpy.random.set_state(of_numpy)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

    return put_back


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, random numbers of torch, numpy and Python follow from ``seed``; afterwards each goes on as before."""
    numpy: Any = sys.modules.get("numpy")
    states = random.getstate(), numpy.random.get_state() if numpy else None
    # A CUDA that nobody has started keeps no state yet, and torch.manual_seed would leave it a seed to start from.
    cuda = torch.cuda.is_initialized()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count() if cuda else 0)):
            (torch.manual_seed if cuda else torch.default_generator.manual_seed)(seed)
            random.seed(seed)
            if numpy:
                numpy.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])
