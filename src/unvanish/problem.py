"""What is being trained: a model, a batch, a loss, and (for some answers) an optimizer."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset

from unvanish.preserve import seeded
from unvanish.records import UnvanishError
from unvanish.trace.structure import inner_loss, tensors

Optimizer = torch.optim.Optimizer


@dataclass(frozen=True)
class Several:
    """Optimizers that step together, each over parameters of its own."""

    parts: tuple[Optimizer, ...]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        return {parameter: state for part in self.parts for parameter, state in part.state.items()}


Optimizers = Optimizer | Several


def parts_of(optimizer: Optimizers) -> tuple[Optimizer, ...]:
    return optimizer.parts if isinstance(optimizer, Several) else (optimizer,)


def rate_of(group: Mapping[str, Any]) -> float:
    """The learning rate of a group of parameters; NaN without one, and where the optimizer finds its own (None)."""
    rate = group.get("lr")
    return math.nan if rate is None else float(rate)


def name_of(optimizer: Optimizers) -> str:
    """The optimizer's class; each once where there are several."""
    return " and ".join(dict.fromkeys(type(part).__name__ for part in parts_of(optimizer)))


@dataclass(frozen=True)
class Problem:
    """A training problem: everything a check, a fix or a watch needs to know.

    ``model``: an nn.Module, or a zero-argument callable that builds one (fresh weights for each seed).
    ``inputs``: Tensor -> ``model(x)``; tuple or list -> ``model(*x)``; any Mapping -> ``model(**x)``.
    ``loss_fn(outputs, targets)`` -> scalar. None: the output, or its ``.loss``, is the loss.
    ``optimizer``: a torch Optimizer over the model, or ``callable(parameters) -> Optimizer`` (needed with a factory).
    Several, each over its own part: a sequence of them, which a callable may return too.
    ``train_batches``: re-iterable of (inputs, targets), lists or Mappings. ``validation``: (inputs, targets).
    ``metric(outputs, targets)`` -> float, higher is better. ``steps``: planned optimizer steps.
    ``autocast``: the torch.dtype to check under autocast.

    Raises UnvanishError where these do not fit together.
    """

    model: nn.Module | Callable[[], nn.Module]
    inputs: Any
    targets: Any = None
    loss_fn: Callable[..., Any] | None = None
    optimizer: Optimizer | Sequence[Optimizer] | Callable[[Iterable[nn.Parameter]], Any] | None = None
    train_batches: Any = None
    validation: Any = None
    metric: Callable[..., float] | None = None
    steps: int | None = None
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is ...:
                raise UnvanishError(f"Problem({name}=…) is `...` still: put in what you train with")
        if not isinstance(self.model, nn.Module) and not callable(self.model):
            raise UnvanishError(
                f"Problem(model=…) takes an nn.Module or a function that builds one, not {_kind(self.model)}"
            )
        if self.inputs is None:
            raise UnvanishError("Problem(inputs=…) is None: give one batch, as the model takes it")
        for name, one in (("inputs", self.inputs), ("validation", self.validation)):
            if isinstance(one, (DataLoader, Dataset)):
                raise UnvanishError(
                    f"Problem({name}=…) is {_kind(one)}: give one batch, as in `inputs, targets = next(iter(loader))`;"
                    " the loader itself goes into train_batches=loader"
                )
        if self.loss_fn is None and self.targets is not None:
            raise UnvanishError(
                "Problem has targets but no loss_fn: pass loss_fn(outputs, targets), or leave targets out if the model"
                " returns its own loss"
            )
        if self.loss_fn is not None and not callable(self.loss_fn):
            raise UnvanishError(f"Problem(loss_fn=…) takes a function, not {_kind(self.loss_fn)}")
        if isinstance(self.loss_fn, type):
            name = self.loss_fn.__name__
            raise UnvanishError(f"Problem(loss_fn={name}) is a class: pass an instance of it, loss_fn={name}()")
        if self.loss_fn is not None and (misfit := _misfit(self.loss_fn)):
            raise UnvanishError(f"loss_fn is called as loss_fn(outputs, targets), which it does not take: {misfit}")
        if isinstance(self.optimizer, (list, tuple)):
            _together(self.optimizer, "Problem(optimizer=…)")
        instance = isinstance(self.optimizer, (Optimizer, list, tuple))
        if instance and not isinstance(self.model, nn.Module):
            raise UnvanishError(
                "Problem has a model factory and an optimizer instance: pass a function of the parameters instead, such"
                " as optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
            )
        if self.optimizer is not None and not instance and not callable(self.optimizer):
            raise UnvanishError(
                "Problem(optimizer=…) takes a torch Optimizer, a sequence of them or a function, not"
                f" {_kind(self.optimizer)}"
            )
        if self.steps is not None and (type(self.steps) is not int or self.steps < 1):
            raise UnvanishError(f"Problem(steps=…) is the planned number of optimizer steps, not {self.steps!r}")
        if self.autocast is not None and self.autocast not in (torch.float16, torch.bfloat16):
            raise UnvanishError(f"Problem(autocast=…) takes torch.float16 or torch.bfloat16, not {self.autocast!r}")
        if self.batch_size == 0:
            raise UnvanishError(
                "the batch is empty: a tensor of the inputs has a first dimension of 0; pass real samples"
            )

    @property
    def batch_size(self) -> int:
        """The first dimension of the first input tensor that has one; 1 where there is none."""
        for tensor in tensors(self.inputs):
            if tensor.ndim:
                return tensor.size(0)
        return 1

    def build(self, seed: int = 0) -> tuple[nn.Module, Optimizer | None]:
        """The eager model and its one optimizer; several of one class are one with a group for each.

        Raises UnvanishError where they are of different classes.
        """
        model, optimizer = self.build_all(seed)
        if not isinstance(optimizer, Several):
            return model, optimizer
        kind: Any = type(optimizer.parts[0])
        if any(type(part) is not kind for part in optimizer.parts) or kind is torch.optim.LBFGS:
            raise UnvanishError(
                f"trials train with one optimizer, and the Problem has {len(optimizer.parts)} ({name_of(optimizer)});"
                " give one with a parameter group for each part, as in torch.optim.Adam([{'params': …, 'lr': …}, …])"
            )
        return model, _run(f"{kind.__name__} over the groups of all", kind, [dict(g) for g in optimizer.param_groups])

    def build_all(self, seed: int = 0) -> tuple[nn.Module, Optimizers | None]:
        """The eager model and all that trains it; a factory is called with torch's generator seeded by ``seed``."""
        if isinstance(self.model, nn.Module):
            model: Any = self.model
        else:
            if torch.cuda.is_available():
                torch.cuda.init()  # or weights drawn on the GPU would not follow from the seed the first time
            with seeded(seed):
                model = _run("the model factory", self.model)
            if not isinstance(model, nn.Module):
                raise UnvanishError(f"the model factory returned {_kind(model)}; it must build an nn.Module")
        model = getattr(model, "_orig_mod", model)
        if isinstance(model, torch.jit.ScriptModule):
            raise UnvanishError(
                "the model is a ScriptModule, whose inside Python cannot see; pass the nn.Module it was compiled from"
            )
        named = list(model.named_parameters())
        parameters = [p for _, p in named]
        if any(is_lazy(t) for t in chain(parameters, model.buffers())):
            raise UnvanishError("the model has lazy parameters without a shape yet; run one batch through it first")
        if not parameters:
            raise UnvanishError(
                "the model has no parameters, so no gradient to look for; pass the nn.Module that is trained"
            )
        if any(p.is_inference() for p in parameters):
            raise UnvanishError(
                "the model's parameters were made under torch.inference_mode(), so they cannot have gradients; build it"
                " outside of that mode"
            )
        if on_meta := [name for name, p in named if p.is_meta]:
            raise UnvanishError(
                f"{on_meta[0]} is on the meta device, where a tensor has a shape but no numbers; give the model storage"
                " with model.to_empty(device=…) and initialise it first"
            )
        return model, self._optimizer_of(parameters)

    def _optimizer_of(self, parameters: list[nn.Parameter]) -> Optimizers | None:
        optimizer: Any = self.optimizer
        if optimizer is None:
            return None
        if not isinstance(optimizer, (Optimizer, list, tuple)):
            optimizer = _run("optimizer(parameters)", optimizer, iter(parameters))
        if isinstance(optimizer, (list, tuple)):
            optimizer = _together(optimizer, "optimizer(parameters) returned a sequence that")
        if not isinstance(optimizer, Optimizer | Several):
            raise UnvanishError(
                f"optimizer(parameters) returned {_kind(optimizer)}; it must return a torch Optimizer, or a sequence of"
                " them"
            )
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if held.isdisjoint(map(id, parameters)):
            raise UnvanishError(
                f"the optimizer ({name_of(optimizer)}) holds none of the model's parameters; build it from"
                " model.parameters() after the model has its final device and copy"
            )
        return optimizer

    def outputs(self, model: nn.Module) -> Any:
        """One forward pass of the batch, in the mode the model is in."""
        inputs = self.inputs
        try:
            if isinstance(inputs, Mapping):
                return model(**inputs)
            if isinstance(inputs, (tuple, list)):
                return model(*inputs)
            return model(inputs)
        except SystemExit as error:
            raise UnvanishError(f"the model ended the program: sys.exit({error.code!r})") from error

    def loss(self, outputs: Any) -> Any:
        """The loss of these outputs: ``loss_fn(outputs, targets)``, or the output's ``.loss``, or the output itself."""
        if self.loss_fn is not None:
            try:
                loss, source = self.loss_fn(outputs, self.targets), "loss_fn returned"
            except SystemExit as error:
                raise UnvanishError(f"loss_fn ended the program: sys.exit({error.code!r})") from error
        elif isinstance(outputs, Tensor):
            return outputs
        else:
            loss, source = inner_loss(outputs), "the model gave, as its loss,"
        if loss is None and self.loss_fn is None:
            raise UnvanishError(
                f"no loss_fn was given and the model's output, {_kind(outputs)}, has no .loss; pass loss_fn(outputs,"
                " targets), or loss_fn=lambda outputs, _: outputs[0] where the loss is the first of several outputs"
            )
        if loss is None:
            raise UnvanishError("loss_fn returned None; does it end without a return?")
        if isinstance(loss, (int, float)):
            raise UnvanishError(
                f"{source} {_kind(loss)}, which has no gradient; return the tensor itself, without .item() or float()"
            )
        return loss


def _together(optimizers: Sequence[Any], what: str) -> Optimizers:
    """Several optimizers as one; a single one is itself."""
    if not optimizers:
        raise UnvanishError(f"{what} holds no optimizer; leave it out, or give one over the model's parameters")
    for each in optimizers:
        if not isinstance(each, Optimizer):
            raise UnvanishError(f"{what} holds {_kind(each)} among the optimizers; each must be a torch Optimizer")
    holders: dict[int, Optimizer] = {}
    for each in dict.fromkeys(optimizers):
        for group in each.param_groups:
            for parameter in group["params"]:
                other = holders.setdefault(id(parameter), each)
                if other is not each:
                    raise UnvanishError(
                        f"{what} has two optimizers, {type(other).__name__} and {type(each).__name__}, that hold the"
                        f" same parameter (shape {tuple(parameter.shape)}); give each one its own part of the model"
                    )
    every = tuple(dict.fromkeys(optimizers))
    return every[0] if len(every) == 1 else Several(every)


def _misfit(loss_fn: Callable[..., Any]) -> str:
    """Why a function cannot be called with outputs and targets, or nothing."""
    try:
        signature = inspect.signature(loss_fn)
    except (TypeError, ValueError):  # a callable of C that does not tell
        return ""
    try:
        signature.bind(None, None)
    except TypeError as error:
        return f"{error} for {signature}"
    return ""


def _run(what: str, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except UnvanishError:
        raise
    except (Exception, SystemExit) as error:
        hint, name = "", getattr(function, "__name__", "Model")
        if isinstance(error, TypeError) and "required positional argument" in str(error):
            wrapped = f"lambda parameters: {name}(parameters, …)" if args else f"lambda: {name}(…)"
            hint = f"; it is called with {'the parameters alone' if args else 'no arguments'}, so wrap it: {wrapped}"
        raise UnvanishError(f"{what} raised {type(error).__name__}: {error}{hint}") from error


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
