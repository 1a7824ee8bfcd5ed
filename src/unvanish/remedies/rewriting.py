"""Changes of a traced forward. Each function is handed to users by its source: it needs torch and surgery.py alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from unvanish.remedies.surgery import put, trace


def rewritten(model: nn.Module, path: str, edit: Callable[[fx.Graph], None]) -> nn.Module:
    """Change the forward of the module at ``path`` as a graph."""
    owner = model.get_submodule(path)
    graph = trace(owner)
    edit(graph)
    return put(model, path, fx.GraphModule(owner, graph, type(owner).__name__).train(owner.training))


def softmax_of_some(x: Tensor, dim: int, *_: Any, **dtype: Any) -> Tensor:
    """The softmax; zeros, and no gradient, in a row that is -inf throughout."""
    empty = (x == -math.inf).all(dim, keepdim=True)
    return torch.softmax(x.masked_fill(empty, 0.0), dim, **dtype).masked_fill(empty, 0.0)


def guard_softmax(graph: fx.Graph) -> None:
    """Let every softmax give zeros where all of its row is masked."""
    for node in graph.nodes:
        if getattr(node.target, "__name__", node.target) == "softmax" and node.op in ("call_function", "call_method"):
            given = {key: value for key, value in node.kwargs.items() if key in ("dim", "dtype", "input")}
            dim = node.args[1] if len(node.args) > 1 else given.pop("dim")
            x = node.args[0] if node.args else given.pop("input")
            with graph.inserting_before(node):
                new = graph.call_function(softmax_of_some, (x, dim), {k: v for k, v in given.items() if k == "dtype"})
            node.replace_all_uses_with(new)
            graph.erase_node(node)


def guard_where(graph: fx.Graph) -> None:
    """Give the calls in a branch of ``where`` that may overflow a harmless number wherever the branch is not taken."""
    risky = {
        "exp": 0, "exp2": 0, "expm1": 0, "sinh": 0, "cosh": 0, "tan": 0, "log": 0, "log2": 0, "log10": 0, "log1p": 0,
        "sqrt": 0, "rsqrt": 0, "reciprocal": 0, "pow": 0, "acos": 0, "asin": 0, "atanh": 0, "div": 1, "truediv": 1,
    }  # fmt: skip
    smooth = {"add", "sub", "mul", "neg", "abs", "square", "sin", "cos", "tanh", "sigmoid", "clamp", "softplus"}

    def name(node: fx.Node) -> str:
        called = node.op in ("call_function", "call_method")
        return str(getattr(node.target, "__name__", node.target)).strip("_") if called else ""

    def branch(taken: fx.Node, node: Any, done: dict[fx.Node, fx.Node]) -> Any:
        """A copy of what computes the branch, entry by entry, in front of the where."""
        if not isinstance(node, fx.Node) or (name(node) not in risky and name(node) not in smooth):
            return node
        if node not in done:
            args = [branch(taken, each, done) for each in node.args]
            place = risky.get(name(node), -1)
            if 0 <= place < len(args) and isinstance(args[place], fx.Node):
                args[place] = graph.call_function(torch.where, (taken, args[place], 0.5))
            kwargs = {key: branch(taken, value, done) for key, value in node.kwargs.items()}
            done[node] = graph.create_node(node.op, node.target, tuple(args), kwargs)
        return done[node]

    for node in [each for each in graph.nodes if name(each) == "where" and len(each.args) == 3]:
        first, second, third = node.args
        if node.op == "call_method":  # x.where(condition, other)
            first, second = second, first
        with graph.inserting_before(node):
            copied: dict[fx.Node, fx.Node] = {}
            taken = branch(first, second, copied)
            others: dict[fx.Node, fx.Node] = {}
            other = branch(graph.call_function(torch.logical_not, (first,)), third, others)
            new = graph.call_function(torch.where, (first, taken, other))
        node.replace_all_uses_with(new)
        graph.erase_node(node)
        for old in reversed([each for each in graph.nodes if each in copied or each in others]):
            if not old.users:
                graph.erase_node(old)


def keep_attached(graph: fx.Graph) -> None:
    """Leave out every detach()."""
    for node in list(graph.nodes):
        if node.op == "call_method" and node.target == "detach":
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def in_the_shape_of(other: Tensor, x: Tensor) -> Tensor:
    """x in the shape of the other tensor, where both hold as many numbers."""
    return x.reshape(other.shape) if x.numel() == other.numel() else x


def paired(other: Tensor, x: Tensor) -> Tensor:
    """x in the shape of the other tensor, where they would meet each with each and hold as many numbers."""
    both = x.numel() == other.numel() and x.shape != other.shape
    return x.reshape(other.shape) if both and torch.broadcast_shapes(x.shape, other.shape).numel() > x.numel() else x


def compare_pairs(graph: fx.Graph) -> None:
    """Give losses, and differences of two tensors, their first tensor in the shape of the second."""
    for node in list(graph.nodes):
        name = str(getattr(node.target, "__name__", node.target))
        compares = name.endswith("_loss") or name in ("binary_cross_entropy_with_logits", "binary_cross_entropy")
        subtracts = name.strip("_") in ("sub", "rsub", "subtract", "isub")
        tensors = [each for each in (*node.args, *node.kwargs.values()) if isinstance(each, fx.Node)]
        if node.op in ("call_function", "call_method") and (compares or subtracts) and len(tensors) > 1:
            with graph.inserting_before(node):
                new = graph.call_function(in_the_shape_of if compares else paired, (tensors[1], tensors[0]))
            node.replace_input_with(tensors[0], new)


class PairNorm(nn.Module):
    """(x − mean over the nodes) · √width / root of the mean square length; nodes stand in the first dimension."""

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(0, keepdim=True)
        return x / (1e-6 + x.square().mean()).sqrt()


def keep_apart(model: nn.Module, blocks: dict[str, list[tuple[str, str]]], how: str, alpha: float) -> nn.Module:
    """Change what each block of a forward makes: "first", "pairs", or "jump" for the last one alone."""
    for path in sorted(blocks, key=len, reverse=True):
        owner = model.get_submodule(path)
        graph = trace(owner)
        nodes = {node.name: node for node in graph.nodes}
        start = nodes[blocks[path][0][0]].args[0]
        ends = [nodes[last] for _, last in blocks[path]]
        if how == "pairs":
            owner.add_module("pair_norm", PairNorm())
        for end in ends[-1:] if how == "jump" else ends:
            users = list(end.users)
            with graph.inserting_after(end):
                if how == "pairs":
                    new = graph.call_module("pair_norm", (end,))
                elif how == "jump":
                    stacked = graph.call_function(torch.stack, (ends,))
                    with graph.inserting_after(stacked):
                        new = graph.call_function(torch.amax, (stacked, 0))
                else:
                    new = graph.call_function(torch.lerp, (end, start, alpha))
            for user in users:
                user.replace_input_with(end, new)
        model = put(model, path, fx.GraphModule(owner, graph, type(owner).__name__).train(owner.training))
    return model
