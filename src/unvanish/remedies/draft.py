"""A copy of a training problem under repair, and the record of what was done to it.

The code of a change is not written beside the change: a remedy writes the lines, and the lines are run on the draft.
The functions they call are handed over by their source. What a user gets is what was tried.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from unvanish.preserve import untouched
from unvanish.problem import Optimizer, Problem
from unvanish.records import Finding, LayerFlow, Record, UnvanishError
from unvanish.remedies.recipe import Recipe
from unvanish.trace.structure import rebuild, tensors

WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "DataParallel")
TABLES = (dict, OrderedDict, set)
ROWS = 4096  # samples that statistics of inputs and targets rest on, at most
IMPORTS = {
    "inspect": "import inspect",
    "math": "import math",
    "Callable": "from collections.abc import Callable",
    "Any": "from typing import Any",
    "torch": "import torch",
    "F": "import torch.nn.functional as F",
    "fx": "from torch import fx",
    "nn": "from torch import nn",
    "Tensor": "from torch import Tensor",
}


class Refused(Exception):  # noqa: N818 (a remedy that declines is an answer, not a fault)
    """A remedy does not apply here; the message says why, and what could be done by hand."""


class Change(Record, frozen=True, kw_only=True):
    """What a remedy did.

    ``sentence``: for people. ``definitions``: Python source, one text for each function or class. ``code``: lines that
    act on ``model``, ``loss_fn``, ``restore_outputs``, ``inputs``, ``targets``, ``sample_inputs`` and
    ``sample_targets``. ``edits``: paths of the modules that were changed, as they were called before. ``swaps_in``:
    where another activation of torch is all there is to it, the source of its module and of a call of it on ``{}``.
    """

    sentence: str
    definitions: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    edits: tuple[str, ...] = ()
    swaps_in: tuple[str, ...] = ()

    @classmethod
    def joined(cls, changes: Sequence[Change]) -> Change:
        """Changes made in this order as one."""
        return cls(
            sentence="; ".join(each.sentence for each in changes),
            definitions=tuple(text for each in changes for text in each.definitions),
            code=tuple(line for each in changes for line in each.code),
            edits=tuple(path for each in changes for path in each.edits),
        )


@dataclass
class Draft:
    """A copy under repair: remedies change it in place.

    ``samples``: further training batches, from which ``sample_inputs`` and ``sample_targets`` are taken when they are
    asked for: up to 4,096 samples, for statistics; the batch where there are none. ``restore_outputs``: what turns the
    model's outputs into what the user's metric was written for (a sigmoid, where the loss has been given the logits);
    None where nothing has to be done. ``steps``: planned length of the training. ``generator``: remedies that draw
    numbers take a seed from it. ``pretrained``: the weights are worth keeping. ``metric``: what the outputs are scored
    by. ``known``: what was read off the model. ``losses``: of losses and targets that were tried, with what was found.
    """

    model: nn.Module
    loss_fn: Callable[..., Any] | None
    recipe: Recipe
    inputs: Any
    targets: Any
    samples: Any = None
    findings: tuple[Finding, ...] = ()
    layers: tuple[LayerFlow, ...] = ()
    generator: torch.Generator = field(default_factory=torch.Generator)
    pretrained: bool = False
    restore_outputs: Callable[[Any], Any] | None = None
    steps: int | None = None
    metric: Callable[[Any, Any], Any] | None = None
    known: dict[Any, Any] = field(default_factory=dict)
    losses: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        problem: Problem,
        model: nn.Module,
        optimizer: Optimizer | None,
        *,
        findings: Sequence[Finding] = (),
        layers: Sequence[LayerFlow] = (),
        seed: int = 0,
        pretrained: bool = False,
    ) -> Draft:
        """A draft of the problem with a deep copy of ``model`` (and its optimizer's groups). Raises UnvanishError."""
        if type(model).__name__ in WRAPPERS:
            raise UnvanishError(
                f"the model is wrapped in {type(model).__name__}, which cannot be taken apart; give the module inside"
                " (model.module) and wrap the repaired one again"
            )
        recipe = Recipe.of(optimizer)
        try:
            model, recipe = copy.deepcopy((model, recipe))
        except Exception as error:
            raise UnvanishError(
                f"the model ({type(model).__name__}) cannot be copied: {type(error).__name__}: {error}; give the"
                " Problem a function that builds the model instead of the model"
            ) from error
        for parameter in model.parameters():
            parameter.grad = None
        return cls(
            model=model,
            loss_fn=problem.loss_fn,
            recipe=recipe,
            inputs=problem.inputs,
            targets=problem.targets,
            samples=problem.train_batches,
            findings=tuple(findings),
            layers=tuple(layers),
            generator=torch.Generator().manual_seed(seed),
            pretrained=pretrained,
            steps=problem.steps,
            metric=problem.metric,
        )

    @cached_property
    def _sample(self) -> tuple[Any, Any]:
        """The first training batches joined, or the batch where there are none or they cannot be joined."""
        batches: list[Any] = []
        rows = 0
        for batch in _pairs(self.samples):
            batches.append(batch)
            rows += next((t.shape[0] for t in tensors(batch[0]) if t.ndim), ROWS)
            if rows >= ROWS:
                break
        if batches:
            with suppress(RuntimeError, ValueError, TypeError):
                return _joined([inputs for inputs, _ in batches]), _joined([targets for _, targets in batches])
        return self.inputs, self.targets

    @property
    def sample_inputs(self) -> Any:
        return self._sample[0]

    @property
    def sample_targets(self) -> Any:
        return self._sample[1]

    @property
    def problem(self) -> Problem:
        """The training problem as the draft has it now, without an optimizer."""
        return Problem(self.model, self.inputs, self.targets, self.loss_fn)

    def cached(self, what: Any, read: Callable[[], Any]) -> Any:
        """What ``read`` finds out about the model: asked for once, and once again when there is another model."""
        if self.known.get("model") is not self.model:
            self.known = {"model": self.model}
        if what not in self.known:
            self.known[what] = read()
        return self.known[what]

    def fork(self) -> Draft:
        """A draft to go on from here with: model and what is known of it are shared until a remedy changes it."""
        self.cached("model", lambda: self.model)
        other = copy.copy(self)
        other.generator = torch.Generator().set_state(self.generator.get_state())
        return other

    def seed(self) -> int:
        """A number to seed a generator with, drawn from the draft's own."""
        return int(torch.randint(2**31 - 1, (), generator=self.generator))

    def apply(self, sentence: str, parts: Iterable[Any], code: Sequence[str], edits: Iterable[str]) -> Change:
        """Run the lines on a copy and, if the model still works on the batch, keep the result.

        ``parts``: functions and classes the lines call. Raises Refused, with the draft as it was, where they fail.
        """
        parts = _with_what_they_call(parts)
        # lines that change the loss alone need no model of their own, and what is known of this one stays true
        of_the_model = any(re.search(r"\bmodel\b", line) for line in code)
        model, recipe = copied(self.model, self.recipe) if of_the_model else (self.model, self.recipe)
        names: dict[str, Any] = {part.__name__: part for part in parts}
        names |= {"math": math, "torch": torch, "nn": nn, "F": F}
        names |= {"model": model, "loss_fn": self.loss_fn, "restore_outputs": self.restore_outputs}
        names |= {"inputs": self.inputs, "targets": self.targets}
        if any("sample_" in line for line in code):
            names |= {"sample_inputs": self.sample_inputs, "sample_targets": self.sample_targets}
        try:
            exec("\n".join(code), names)
            _run(names["model"], names["loss_fn"], self.inputs, self.targets)
        except Refused:
            raise
        except Exception as error:
            raise Refused(f"the changed model does not run on the batch: {type(error).__name__}: {error}") from error
        self.model, self.recipe = names["model"], recipe
        self.loss_fn, self.restore_outputs = names["loss_fn"], names["restore_outputs"]
        definitions = tuple(map(_source, parts))
        return Change(sentence=sentence, definitions=definitions, code=tuple(code), edits=tuple(edits))


def script(changes: Sequence[Change], recipe: Recipe | None = None, model: nn.Module | None = None) -> str:
    """The Python text of changes made in this order: imports, each definition once, the lines, the optimizer.

    ``recipe`` and ``model``: how the changed model is trained; without them the text ends with the changes.
    """
    definitions = list(dict.fromkeys(text for change in changes for text in change.definitions))
    lines = [line for change in changes for line in change.code]
    if recipe is not None and model is not None:
        lines += recipe.code(model)
    body = "\n\n\n".join([*definitions, "\n".join(lines)])
    imports = [line for name, line in IMPORTS.items() if re.search(rf"\b{name}\b", body)]
    if recipe is not None and recipe.module:
        imports.append(f"import {recipe.module}")
    return "\n\n\n".join(["\n".join(["from __future__ import annotations", "", *imports]), body]) + "\n"


def copied(model: nn.Module, recipe: Recipe) -> tuple[nn.Module, Recipe]:
    """What copy.deepcopy makes of a draft's model and recipe, but that traced modules share their graph and its code.

    Nothing changes a graph in place, and to copy one and compile it again takes longer than all the rest. A module has
    a dozen tables, most of them empty, whose copies are made here: half of the time of a copy of a small network.
    """
    memo: dict[int, Any] = {}
    modules = list(model.modules())
    for table in (table for module in modules for table in vars(module).values() if type(table) in TABLES):
        if not table and not getattr(table, "__dict__", None):
            memo[id(table)] = type(table)()
    for module in reversed(modules):  # the inner ones first
        if isinstance(module, fx.GraphModule) and id(module) not in memo:
            memo[id(module._graph)] = module._graph
            twin = memo[id(module)] = object.__new__(type(module))
            vars(twin).update(copy.deepcopy(vars(module), memo))
    return copy.deepcopy((model, recipe), memo)


@cache
def _source(part: Any) -> str:
    return inspect.getsource(part).rstrip()


def _with_what_they_call(parts: Iterable[Any]) -> tuple[Any, ...]:
    """Functions and classes, each after those of ours that it calls."""
    found: dict[Any, None] = {}

    def visit(part: Any) -> None:
        codes = [part.__code__] if inspect.isfunction(part) else []
        while codes:
            code = codes.pop()
            codes += [constant for constant in code.co_consts if inspect.iscode(constant)]
            for name in code.co_names:
                other = part.__globals__.get(name)
                ours = getattr(other, "__module__", None) == part.__module__
                if ours and other is not part and other not in found:
                    visit(other)
        found[part] = None

    for part in parts:
        visit(part)
    return tuple(found)


def called(model: nn.Module, inputs: Any) -> Any:
    """The model on one batch, given as a Problem gives it."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def asks_for_a_graph(error: BaseException | None) -> bool:
    """Whether this is what a forward raises that differentiates something itself, where no graph is built."""
    return isinstance(error, RuntimeError) and "does not require grad" in str(error)


def outputs_of(model: nn.Module, inputs: Any, seed: int = 0) -> Any:
    """The outputs on one batch, without a graph; the model is left as it was.

    A forward that takes derivatives itself is run with one.
    """
    for graph in (False, True):
        try:
            with untouched(model, seed), torch.set_grad_enabled(graph):
                return rebuild(called(model, inputs), lambda tensor: tensor.detach().clone())
        except RuntimeError as error:
            if graph or not asks_for_a_graph(error):
                raise
    raise AssertionError


def _run(model: nn.Module, loss_fn: Callable[..., Any] | None, inputs: Any, targets: Any) -> None:
    """One forward pass and loss in the mode the model is in, and one pass in the other; nothing is left behind."""
    with untouched(model, 0, loss_fn):
        outputs = called(model, inputs)
        if loss_fn is not None:
            loss_fn(outputs, targets)
        model.train(not model.training)
        called(model, inputs)


def _pairs(batches: Any) -> Iterator[tuple[Any, Any]]:
    for batch in batches if batches is not None else ():
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            return
        yield batch[0], batch[1]


def _joined(trees: list[Any]) -> Any:
    columns = [torch.cat(column)[:ROWS] for column in zip(*(list(tensors(tree)) for tree in trees), strict=True)]
    following = iter(columns)

    def next_column(_: Tensor) -> Tensor:
        return next(following)

    return rebuild(trees[0], next_column)
