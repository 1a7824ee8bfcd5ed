"""What is being trained: a model, a batch, a loss, and (for some answers) an optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from unvanish.preserve import seeded
from unvanish.records import UnvanishError
from unvanish.trace.structure import inner_loss, tensors

Optimizer = torch.optim.Optimizer


@dataclass(frozen=True)
class Problem:
    """A training problem: everything a check, a fix or a watch needs to know.

    ``model``: an nn.Module, or a zero-argument callable that builds one (fresh weights for each seed).
    ``inputs``: Tensor -> ``model(x)``; tuple or list -> ``model(*x)``; any Mapping -> ``model(**x)``.
    ``loss_fn(outputs, targets)`` -> scalar. None: the output, or its ``.loss``, is the loss.
    ``optimizer``: a torch Optimizer over the model, or ``callable(parameters) -> Optimizer`` (needed with a factory).
    ``train_batches``: re-iterable of (inputs, targets), lists or Mappings. ``validation``: (inputs, targets).
    ``metric(outputs, targets)`` -> float, higher is better. ``steps``: planned optimizer steps.
    ``autocast``: the torch.dtype to check under autocast.

    Raises UnvanishError where these do not fit together.
    """

    model: nn.Module | Callable[[], nn.Module]
    inputs: Any
    targets: Any = None
    loss_fn: Callable[..., Any] | None = None
    optimizer: Optimizer | Callable[[Iterable[nn.Parameter]], Optimizer] | None = None
    train_batches: Any = None
    validation: Any = None
    metric: Callable[..., float] | None = None
    steps: int | None = None
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module) and not callable(self.model):
            raise UnvanishError(
                f"Problem(model=…) takes an nn.Module or a function that builds one, not {_kind(self.model)}"
            )
        if self.inputs is None:
            raise UnvanishError("Problem(inputs=…) is None: give one batch, as the model takes it")
        if self.loss_fn is None and self.targets is not None:
            raise UnvanishError(
                "Problem has targets but no loss_fn: pass loss_fn(outputs, targets), or leave targets out if the model"
                " returns its own loss"
            )
        if self.loss_fn is not None and not callable(self.loss_fn):
            raise UnvanishError(f"Problem(loss_fn=…) takes a function, not {_kind(self.loss_fn)}")
        if self.loss_fn is not None and (misfit := _misfit(self.loss_fn)):
            raise UnvanishError(f"loss_fn is called as loss_fn(outputs, targets), which it does not take: {misfit}")
        if isinstance(self.optimizer, Optimizer) and not isinstance(self.model, nn.Module):
            raise UnvanishError(
                "Problem has a model factory and an optimizer instance: pass a function of the parameters instead, such"
                " as optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
            )
        if self.optimizer is not None and not isinstance(self.optimizer, Optimizer) and not callable(self.optimizer):
            raise UnvanishError(
                f"Problem(optimizer=…) takes a torch Optimizer or a function, not {_kind(self.optimizer)}"
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
        """The eager model and its optimizer; a factory is called with torch's generator seeded by ``seed``."""
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
        if any(is_lazy(t) for t in chain(model.parameters(), model.buffers())):
            raise UnvanishError("the model has lazy parameters without a shape yet; run one batch through it first")
        if next(model.parameters(), None) is None:
            raise UnvanishError(
                "the model has no parameters, so no gradient to look for; pass the nn.Module that is trained"
            )
        if any(p.is_inference() for p in model.parameters()):
            raise UnvanishError(
                "the model's parameters were made under torch.inference_mode(), so they cannot have gradients; build it"
                " outside of that mode"
            )
        if on_meta := [name for name, p in model.named_parameters() if p.is_meta]:
            raise UnvanishError(
                f"{on_meta[0]} is on the meta device, where a tensor has a shape but no numbers; give the model storage"
                " with model.to_empty(device=…) and initialise it first"
            )
        return model, self._optimizer_of(model)

    def _optimizer_of(self, model: nn.Module) -> Optimizer | None:
        optimizer = self.optimizer
        if optimizer is None:
            return None
        if not isinstance(optimizer, Optimizer):
            optimizer = _run("optimizer(parameters)", optimizer, model.parameters())
            if not isinstance(optimizer, Optimizer):
                raise UnvanishError(
                    f"optimizer(parameters) returned {_kind(optimizer)}; it must return a torch Optimizer"
                )
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if held.isdisjoint(id(p) for p in model.parameters()):
            raise UnvanishError(
                f"the optimizer ({type(optimizer).__name__}) holds none of the model's parameters; build it from"
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
        raise UnvanishError(f"{what} raised {type(error).__name__}: {error}") from error


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
