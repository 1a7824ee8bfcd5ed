"""Keras 3 on torch: ``model.fit(…, callbacks=[Watch()])`` watches what it trains, as ``unvanish.watch`` would.

Keras keeps its layers where ``named_modules`` does not look, and its optimizers are none of torch's: no hook of theirs
is called, ``.grad`` holds the last part of an accumulated batch, not clipped, and times the scale of float16. So the
layers are shown to the watch as modules, and the optimizer's ``apply`` is wrapped while it watches: the gradients are
read as they will be used, and put back.
"""

# pyright: basic, reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import unvanish
from unvanish import UnvanishError
from unvanish.integrations.required import callback, required, where_its_cell_fails

if TYPE_CHECKING:
    from unvanish import Report


class Hooks:
    """A callback that watches a training; the arguments are those of ``unvanish.watch``.

    Keras saves no callback: to go on with the run of a model that was saved in training, name its file (``to``).
    """

    def __init__(
        self, *, every: int = 10, check_every: int | None = None, to: str | Path = "runs/",
        on_finding: Callable[[Any], Any] | None = None, log_to: Any = None, log_layers: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.given: dict[str, Any] = {"every": every, "check_every": check_every, "on_finding": on_finding,
                                      "log_to": log_to, "log_layers": log_layers}  # fmt: skip
        self.to = to
        self.run: Any = None
        self._layers: Any = None
        self._asked: Callable[[Any], Any] | None = None
        self._put_back: Callable[[], None] | None = None

    def diagnose_next(self, tell: Callable[[Report | None], Any]) -> None:
        """A full check of the next batch, given to ``tell`` before its step: no hook of Keras is called at that moment.

        None where that step cannot be run again.
        """
        self._asked = tell

    # What Keras calls

    def on_train_begin(self, logs: Any = None) -> None:
        self._end("another training has begun")
        model: Any = self.model  # pyright: ignore[reportAttributeAccessIssue]
        backend = required("keras", install="keras").backend.backend()
        if backend != "torch":
            raise UnvanishError(
                f"Keras runs on {backend} here; unvanish watches torch: set KERAS_BACKEND=torch before its import"
            )
        optimizer = model.optimizer
        if (other := getattr(vars(optimizer).get("apply"), "watch", None)) is not None:  # its fit was interrupted
            other._end("another training has begun")
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        parts = inner.gradient_accumulation_steps or 1
        made = int(optimizer.iterations)
        steps = _called(Steps, inner)(optimizer, parts, [v.value for v in model.trainable_variables])
        goes_on = {"from_step": made} if made and Path(self.to).is_file() else {}
        self._layers = _called(Layers, model)(model)  # a watch keeps no model alive
        self.run = unvanish.watch(self._layers, steps, to=self.to, **goes_on, **self.given)

        def apply(grads: Any, trainable_variables: Any = None) -> Any:
            variables = model.trainable_variables if trainable_variables is None else list(trainable_variables)
            steps.take(grads, variables, self.run, self._ask)
            try:
                return plain(grads, trainable_variables)
            finally:
                steps.taken(self.run)

        plain = optimizer.apply
        vars(apply)["watch"] = self
        object.__setattr__(optimizer, "apply", apply)
        self._put_back = lambda: object.__delattr__(optimizer, "apply")
        where_its_cell_fails(self._end)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.run.flush()

    def on_train_end(self, logs: Any = None) -> None:
        self._end()

    def _ask(self) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            asked(self.run.check())

    def _end(self, why: str | BaseException = "") -> None:
        if self._put_back is not None:
            self._put_back()
            self._put_back = None
            self.run.close(why) if isinstance(why, str) else self.run.close_after(why)
            self._layers = None


class Layers(nn.Module):
    """A model of Keras as torch expects one: a module a layer, by its path, with the layer's own variables."""

    model: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.__dict__["model"] = model  # not as a module: its layers are, below
        layers = {layer.path: layer for layer in model._flatten_layers() if layer.path}
        skipped = {id(variable) for variable in model.metrics_variables}
        for variable in model.variables:
            if id(variable) not in skipped:
                path, _, name = variable.path.rpartition("/")
                self._layer(path, layers.get(path, model)).take(name, variable)

    def _layer(self, path: str, layer: Any) -> Any:
        name = path.removeprefix(f"{self.model.name}/").replace(".", "_") or "model"
        if name not in self._modules:
            self.add_module(name, _called(Layer, layer)(layer))
        return self._modules[name]

    def forward(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        given = {name: value for name, value in (("training", training), ("mask", mask)) if value is not None}
        return self.model(inputs, **given)

    def register_forward_pre_hook(self, hook: Any, **how: Any) -> Any:
        return self.model.register_forward_pre_hook(hook, **how)

    def register_forward_hook(self, hook: Any, **how: Any) -> Any:
        return self.model.register_forward_hook(hook, **how)


class Layer(nn.Module):
    """The variables of one layer; a hook on it is one on the layer."""

    layer: Any

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.__dict__["layer"] = layer

    def take(self, name: str, variable: Any) -> None:
        put = self.register_parameter if variable.trainable else self.register_buffer
        put(name.replace(".", "_"), variable.value)

    def register_forward_pre_hook(self, hook: Any, **how: Any) -> Any:
        return self.layer.register_forward_pre_hook(hook, **how)

    def register_forward_hook(self, hook: Any, **how: Any) -> Any:
        return self.layer.register_forward_hook(hook, **how)


class Steps(torch.optim.Optimizer):
    """What a watch reads of an optimizer: its weights, its rate, and gradients as the optimizer of Keras uses them."""

    def __init__(self, optimizer: Any, parts: int, weights: Sequence[nn.Parameter]) -> None:
        super().__init__(list(weights), {"lr": 0.0})
        self.keras, self.inner, self.parts = optimizer, getattr(optimizer, "inner_optimizer", optimizer), parts
        self.scaled = optimizer is not self.inner
        self.stepping = False
        self.found_inf = 0.0

    def step(self, closure: Any = None) -> None:
        raise UnvanishError("this optimizer only shows a watch what that of Keras does")

    def take(self, grads: Sequence[Any], variables: Sequence[Any], run: Any, ask: Callable[[], None]) -> None:
        """The gradients are there and the weights have not moved: the watch reads them where this makes a step."""
        made = int(self.inner._iterations) if self.inner.built else 0
        self.stepping = (made + 1) % self.parts == 0
        if not self.stepping or run.closed:
            return
        self.param_groups[0]["lr"] = float(self.inner.learning_rate)
        kept = [(variable.value, variable.value.grad) for variable in variables]
        try:
            with torch.no_grad():
                self._show(grads, variables, run)
            ask()
            run.before_step(self)
        finally:
            for weight, gradient in kept:
                weight.grad = gradient

    def taken(self, run: Any) -> None:
        """The weights have moved."""
        if self.stepping and not run.closed:
            self.stepping = False
            run.after_step(self)

    def _show(self, grads: Sequence[Any], variables: Sequence[Any], run: Any) -> None:
        """Put where a watch looks what this step uses: the mean over the parts, without the scale; then clipped."""
        scale = (
            float(self.keras.dynamic_scale if self.keras.built else self.keras.initial_scale) if self.scaled else 1.0
        )
        used = [
            None if each is None else self._mean(each / scale, at) for each, at in zip(grads, variables, strict=True)
        ]
        self.found_inf = float(self.scaled and not all(each is None or bool(each.isfinite().all()) for each in used))
        if scale == 1.0 and self.parts == 1 and not self._clips():
            return
        _give(used, variables)
        run.gradients_are(scale * self.parts)
        if self._clips():
            there = [each for each in used if each is not None]
            clipped = iter(self.inner._clip_gradients(there))
            _give([None if each is None else next(clipped) for each in used], variables)

    def _mean(self, gradient: Tensor, variable: Any) -> Tensor:
        if self.parts == 1 or not self.inner.built:
            return gradient
        before = self.inner._accumulated_gradients[self.inner._get_variable_index(variable)]
        return (gradient + before.value) / self.parts

    def _clips(self) -> bool:
        return any(getattr(self.inner, name) is not None for name in ("clipnorm", "global_clipnorm", "clipvalue"))


def _called(ours: type, theirs: Any) -> Any:
    """A class of ours under the name of what it stands for, which is the one that reports say."""
    return type(type(theirs).__name__, (ours,), {})


def _give(grads: Sequence[Any], variables: Sequence[Any]) -> None:
    for gradient, variable in zip(grads, variables, strict=True):
        variable.value.grad = gradient


if TYPE_CHECKING:
    Watch = Hooks


def __getattr__(name: str) -> Any:
    if name != "Watch":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = callback(Hooks, required("keras.callbacks", install="keras").Callback)
    return globals().setdefault(name, found)
