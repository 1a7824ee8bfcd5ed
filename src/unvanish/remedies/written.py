"""Blocks of layers in forwards that are written out, line by line or as a loop over a ModuleList: read by torch.fx."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from unvanish.preserve import untouched
from unvanish.remedies.anatomy import ACTIVATIONS, LINEAR, MODULE_NORMS, NORMS, Anatomy, is_activation, plain
from unvanish.remedies.draft import Draft, Refused, called
from unvanish.remedies.surgery import trace
from unvanish.remedies.swap import traced
from unvanish.trace.calls import Call

MIXES = {"matmul", "mm", "bmm", "spmm"}
JOINS = {"add", "cat", "concat", "stack", "sub"}
Spans = dict[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class _Owner:
    """A module whose forward is looked through: its graph, and the shape that each of its nodes has on the batch."""

    path: str
    module: nn.Module
    graph: fx.Graph
    shapes: dict[str, tuple[int, ...]]


def written_blocks(draft: Draft) -> Spans:
    """Per module the blocks of its forward that keep their shape, each as the names of its first and last node.

    A block is a Linear or convolution, or a module of layers in which no branch is joined, with the mean over
    neighbours, the normalisation and the activation behind it. Raises Refused where there is none.
    """
    anatomy = Anatomy.of(draft)
    found: Spans = {}
    inside: list[str] = []
    refusals: list[str] = []
    for path in _owners(anatomy):
        if any(path == each or path.startswith(f"{each}.") for each in inside):
            continue
        try:
            owner = _Owner(path, anatomy.modules[path], traced(draft, path), _shapes(draft, path))
        except Refused as refusal:
            refusals.append(str(refusal))
            continue
        if spans := list(_spans(anatomy, owner)):
            found[path] = [(first.name, last.name) for first, last in spans]
            inside += [f"{path}.{first.target}".lstrip(".") for first, _ in spans]
    if not found:
        raise Refused(
            "no block keeps its shape (a Linear or convolution with as many outputs as inputs, and its activation)"
            " without a shortcut of its own" + (f"; {refusals[0]}" if refusals else "")
        )
    return found


def _owners(anatomy: Anatomy) -> list[str]:
    """The modules that call layers, or modules with layers, in a forward of their own; the outer ones first."""
    paths = {path for call in anatomy.calls if call.parameters for path, _ in call.frames[:-1]}
    own = [path for path in paths if not isinstance(anatomy.modules[path], (nn.Sequential, nn.MultiheadAttention))]
    return sorted(own, key=lambda path: (path.count(".") + bool(path), path))


def _shapes(draft: Draft, path: str) -> dict[str, tuple[int, ...]]:
    """The shape of what each node makes in the first call of that module."""
    model, given, found = copy.deepcopy(draft.model), list[Any](), dict[str, tuple[int, ...]]()
    owner = model.get_submodule(path)
    graph = trace(owner)  # tensors that a forward makes are kept on the module that was traced

    class Noting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, Tensor):
                found[n.name] = tuple(result.shape)
            return result

    with untouched(model, 0):
        hook = owner.register_forward_pre_hook(lambda _, args, kwargs: given.append((args, kwargs)), with_kwargs=True)
        try:
            called(model, draft.inputs)
            args, kwargs = given[0]
            names = [node.target for node in graph.nodes if node.op == "placeholder"]
            rest = [kwargs[name] for name in names[len(args) :] if name in kwargs]
            Noting(fx.GraphModule(owner, graph)).run(*args, *rest)
        except Exception as error:
            where = path or "the model"
            raise Refused(
                f"the forward of {where} cannot be run step by step: {type(error).__name__}: {error}"
            ) from error
        finally:
            hook.remove()
    return found


def _spans(anatomy: Anatomy, owner: _Owner) -> Iterator[tuple[fx.Node, fx.Node]]:
    last = {layer.path for layer in anatomy.layers if layer.last}
    for first in owner.graph.nodes:
        if first.op != "call_module" or not first.args or not isinstance(first.args[0], fx.Node):
            continue
        path = f"{owner.path}.{first.target}".lstrip(".")
        module = owner.module.get_submodule(first.target)
        end, active = first, False
        if path in last or not (isinstance(module, LINEAR) or _is_composite(anatomy, path)):
            continue
        if isinstance(module, LINEAR) or not _has_activation(anatomy, path):
            while (after := _next(owner, end)) is not None:
                end, active = after, active or _is_active(anatomy, owner, after)
            if not active:
                continue
        before = first.args[0]
        shape = owner.shapes.get(before.name)
        if shape is not None and shape == owner.shapes.get(end.name) and not _is_joined(end, before):
            yield first, end


def _is_joined(end: fx.Node, before: fx.Node) -> bool:
    """Whether what goes into a block is added to what it makes already, scaled or dropped out or not."""
    here = [end]
    for _ in range(4):
        after = [user for node in here for user in node.users]
        if any(_name(user) in JOINS and before in user.all_input_nodes for user in after):
            return True
        here = [user for user in after if user.op == "call_module" or _name(user) in ("mul", "dropout")]
    return False


def _next(owner: _Owner, node: fx.Node) -> fx.Node | None:
    """The normalisation, activation or mean over neighbours that alone takes what this node makes."""
    users = list(node.users)
    if len(users) != 1 or not users[0].args:
        return None
    after = users[0]
    if _name(after) in MIXES and after.args[-1] is node:
        return after
    if after.args[0] is not node:
        return None
    if after.op == "call_module":
        module = owner.module.get_submodule(str(after.target))
        return after if isinstance(module, MODULE_NORMS) or is_activation(module) else None
    return after if _name(after) in ACTIVATIONS | NORMS | {"dropout"} and len(after.all_input_nodes) == 1 else None


def _is_active(anatomy: Anatomy, owner: _Owner, node: fx.Node) -> bool:
    """Whether a node is an activation whose result is no gate."""
    path = f"{owner.path}.{node.target}".lstrip(".") if node.op == "call_module" else owner.path
    sites = [site for site in anatomy.sites if site.path == path and (site.module or site.name == _name(node))]
    return bool(sites) and not any(site.gate for site in sites)


def _is_composite(anatomy: Anatomy, path: str) -> bool:
    """Whether a module holds layers, joins nothing, and has layers after it."""
    own = _calls_in(anatomy, path)
    names = {plain(call.name) for call in own if len(call.inputs) > 1}
    layers = any(any(p.ndim > 1 for p in call.parameters) for call in own)
    return layers and not names & JOINS and all(call.index in anatomy.before_weights for call in own)


def _has_activation(anatomy: Anatomy, path: str) -> bool:
    return any(plain(call.name) in ACTIVATIONS for call in _calls_in(anatomy, path))


def _calls_in(anatomy: Anatomy, path: str) -> list[Call]:
    return [call for call in anatomy.calls if any(frame == path for frame, _ in call.frames)]


def _name(node: fx.Node) -> str:
    if node.op not in ("call_function", "call_method"):
        return ""
    return plain(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", ""))
