"""How a draft is trained: the optimizer and its settings, clipping and warm-up, as data and as code."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.problem import Optimizer, rate_of
from unvanish.records import UnvanishError

SMALLEST = 1e-3  # norm of a tensor that is still to be moved where it is all zeros
IGNORED = {"params", "initial_lr", "max_lr", "min_lr"}  # what a scheduler leaves in a group


@dataclass(frozen=True)
class Recipe:
    """An optimizer class with its options, a largest gradient norm, and steps of linear warm-up.

    ``options``: of the first group of parameters. ``groups``: (options, parameters) of every group, where there are
    several; a new parameter joins the first. ``clip``: None for no clipping. ``clip_layers``: the largest norm of each
    tensor's gradient, as a share of the norm of the tensor.
    """

    optimizer: type[Optimizer]
    options: dict[str, Any]
    clip: float | None = None
    clip_layers: float | None = None
    warmup: int = 0
    groups: tuple[tuple[dict[str, Any], tuple[nn.Parameter, ...]], ...] = ()

    @classmethod
    def of(cls, optimizer: Optimizer | None) -> Recipe:
        """The recipe of an optimizer; without one, plain SGD at a learning rate of 0.01."""
        if optimizer is None:
            return cls(torch.optim.SGD, {"lr": 0.01})
        kind = type(optimizer)
        found = [_options(kind, group) for group in optimizer.param_groups]
        members = [tuple(group["params"]) for group in optimizer.param_groups]
        groups = tuple(zip(found, members, strict=True)) if any(each != found[0] for each in found) else ()
        recipe = cls(kind, found[0], groups=groups)
        recipe.build([parameter for part in members for parameter in part])
        return recipe

    @property
    def lr(self) -> float:
        """The learning rate of the first group."""
        return rate_of(self.options)

    @property
    def settings(self) -> tuple[dict[str, Any], ...]:
        """The settings of each group."""
        return tuple(options for options, _ in self.groups) or (self.options,)

    @property
    def module(self) -> str:
        """What has to be imported for an optimizer that is not torch's own."""
        return "" if self._inside_torch else self.optimizer.__module__

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """A fresh optimizer over the parameters that are trained. Raises UnvanishError where it cannot be built."""
        kind: Any = self.optimizer
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        try:
            if not self.groups:
                return kind(trained, **self.options)
            held = {id(p): number for number, (_, members) in enumerate(self.groups) for p in members}
            parts: list[list[nn.Parameter]] = [[] for _ in self.groups]
            for parameter in trained:
                parts[held.get(id(parameter), 0)].append(parameter)
            filled = zip(parts, self.groups, strict=True)
            return kind([{"params": part, **options} for part, (options, _) in filled if part])
        except (TypeError, ValueError) as error:
            raise UnvanishError(
                f"the optimizer {self.optimizer.__name__} cannot be built anew from its own settings: {error}; pass"
                " optimizer=lambda parameters: … with one of torch.optim"
            ) from error

    def clip_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Cut the gradients as the recipe says: each tensor's own, then all together."""
        if self.clip_layers is not None:
            for parameter in parameters:
                if parameter.grad is not None:
                    largest = self.clip_layers * max(float(parameter.detach().norm()), SMALLEST)
                    nn.utils.clip_grad_norm_(parameter, largest)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip)

    def rate(self, step: int) -> float:
        """What the learning rate is multiplied by at a step, the first of which is 0."""
        return min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0

    def with_lr(self, factor: float) -> Recipe:
        """The same with every learning rate multiplied."""
        scaled = tuple(({**options, "lr": float(options["lr"]) * factor}, part) for options, part in self.groups)
        return replace(self, options={**self.options, "lr": self.lr * factor}, groups=scaled)

    def with_options(self, **options: Any) -> Recipe:
        """The same with these settings in every group."""
        groups = tuple(({**own, **options}, part) for own, part in self.groups)
        return replace(self, options={**self.options, **options}, groups=groups)

    def code(self, model: nn.Module) -> list[str]:
        """The lines that make the optimizer of ``model``, each group of parameters by the names it has there."""
        name = f"torch.optim.{self.optimizer.__name__}" if self._inside_torch else self._full_name
        if self.groups:
            lines = self._in_groups(name, model)
        else:
            options = ", ".join(f"{key}={value!r}" for key, value in self._set(self.options).items())
            lines = [f"optimizer = {name}([p for p in model.parameters() if p.requires_grad], {options})"]
        if self.warmup:
            lines += [
                "# call warmup.step() after every optimizer.step()",
                "warmup = torch.optim.lr_scheduler.LambdaLR("
                f"optimizer, lambda step: min(1.0, (step + 1) / {self.warmup}))",
            ]
        if self.clip_layers is not None:
            lines += [
                "# before every optimizer.step():",
                "#     for p in model.parameters():",
                "#         if p.grad is not None:",
                "#             torch.nn.utils.clip_grad_norm_("
                f"p, {self.clip_layers:g} * max(float(p.detach().norm()), {SMALLEST:g}))",
            ]
        if self.clip is not None:
            lines.append(
                "# before every optimizer.step(): "
                f"torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={self.clip:g})"
            )
        return lines

    @property
    def _inside_torch(self) -> bool:
        return self.optimizer.__module__.startswith("torch.optim")

    @property
    def _full_name(self) -> str:
        return f"{self.optimizer.__module__}.{self.optimizer.__qualname__}"

    def _in_groups(self, name: str, model: nn.Module) -> list[str]:
        groups: list[tuple[list[str], dict[str, Any]]] = []
        for options, members in self.groups[1:]:
            held = {id(p) for p in members}
            names = [path for path, p in model.named_parameters() if p.requires_grad and id(p) in held]
            groups += [(names, self._set(options))] if names else []
        return [
            "named = {name: p for name, p in model.named_parameters() if p.requires_grad}",
            "groups = [  # parameters with settings of their own; all others are trained with those of the first group",
            *(f"    ({names!r}, {options!r})," for names, options in groups),
            "]",
            "apart = {name for names, _ in groups for name in names}",
            f"optimizer = {name}([",
            f'    {{"params": [p for name, p in named.items() if name not in apart], **{self._set(self.options)!r}}},',
            '    *({"params": [named[name] for name in names], **options} for names, options in groups),',
            "])",
        ]

    def _set(self, options: dict[str, Any]) -> dict[str, Any]:
        """The settings that are not what the class has anyway; the learning rate always."""
        known = inspect.signature(self.optimizer.__init__).parameters
        return {k: v for k, v in options.items() if k == "lr" or k not in known or known[k].default != v}


def _options(kind: type[Optimizer], group: dict[str, Any]) -> dict[str, Any]:
    """The settings of a group that the class takes, as plain numbers where they are single ones."""
    known = inspect.signature(kind.__init__).parameters
    any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    kept = {key: value for key, value in group.items() if key not in IGNORED and (any_name or key in known)}
    return {key: float(v) if isinstance(v, torch.Tensor) and v.numel() == 1 else v for key, v in kept.items()}
