"""The children of the watched models, whose calls are followed where a training never calls the model itself."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

import torch
from torch import nn


class Parts:
    """``follow(child, hooks)`` puts hooks on a child and appends them to the list."""

    def __init__(self, follow: Callable[[nn.Module, list[Any]], None]) -> None:
        self.follow = follow
        self.hooks: dict[int, list[Any]] = {}  # by the ids of the models
        self.apart = False  # a step was seen in which no model was called as a whole

    def add(self, model: nn.Module) -> None:
        """Follow the children of this model until it is called as a whole."""
        self.hooks[id(model)] = []
        for child in model.children():  # its hooks hold nothing that holds the model
            if not isinstance(child, torch.jit.ScriptModule):  # which takes none
                self.follow(child, self.hooks[id(model)])

    def called(self, model: nn.Module) -> None:
        """It is called as a whole: nothing of its parts need be known."""
        if id(model) in self.hooks and not self.apart:
            drop(self.hooks.pop(id(model)))

    def none_was_called(self, models: Iterable[nn.Module], hidden: Container[int]) -> None:
        """An optimizer uses gradients before whose backward no model was called: the parts of all are held, too."""
        if not self.apart:
            self.apart = True
            for model in models:
                if id(model) not in self.hooks and id(model) not in hidden:
                    self.add(model)

    def detach(self) -> None:
        """Take every hook away."""
        for hooks in self.hooks.values():
            drop(hooks)


def drop(hooks: list[Any]) -> None:
    """Remove these hooks from what they are on, and from the list."""
    while hooks:
        hooks.pop().remove()
