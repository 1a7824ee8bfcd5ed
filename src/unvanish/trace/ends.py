"""Where the layers of a model that returns its own loss end: the last tensors before it that carry samples.

The gradient of such a loss cancels at the optimum, and of a satisfied hinge it is zero, in every layer: a random
cotangent at the loss itself shows the same and tells nothing about the layers. At the results of the last calls with
weights it does.
"""

from __future__ import annotations

from torch import Tensor

from unvanish.trace.calls import Call, Capture, Met, Node, Root, is_gone

SCALES = ("mul", "rmul", "imul", "multiply", "div", "truediv", "itruediv", "true_divide")
WEIGHTED_SUM = (
    *SCALES, "add", "radd", "iadd", "sub", "rsub", "isub", "neg", "sum", "mean", "stack", "cat", "to", "float",
    "double", "type", "clone", "view", "reshape", "squeeze", "unsqueeze", "getitem", "select", "unbind",
)  # fmt: skip
"""Calls that a weighted sum of single numbers is made of."""

PRODUCTS = ("linear", "bilinear", "matmul", "mm", "addmm", "bmm", "baddbmm")


def returns_loss(capture: Capture, batch_size: int) -> bool:
    """Whether all the model gives is one number, taken as its loss as it is."""
    return capture.own_loss and batch_size > 1 and not capture.outputs


def handed_on(capture: Capture) -> set[int]:
    """The calls of the model whose single numbers, weighted and summed at most, are all that the loss_fn gives.

    As ``lambda outputs, _: outputs[0]`` does for a model that returns ``(loss, logits)``. Empty where it does more.
    """
    calls = capture.calls
    summed = [call for call in calls if call.part == "loss"]
    made = {capture.loss_index, *(index for call in summed for index in call.inputs)}
    owned = {index for index in made if index is not None and index >= 0}
    if any(calls[index].numel > 1 for index in owned) or any(c.name.strip("_") not in WEIGHTED_SUM for c in summed):
        return set()
    return {index for index in owned if calls[index].part == "model"}


def only_scaled(capture: Capture, index: int) -> bool:
    """Whether the loss_fn does no more than multiply the number that this call of the model has made."""
    scaled = [call for call in capture.calls if call.part == "loss"]
    known = {index, *(call.index for call in scaled)}
    return bool(scaled) and all(c.name.strip("_") in SCALES and known.issuperset(c.inputs) for c in scaled)


def ends_of(capture: Capture, batch_size: int) -> list[int]:
    """The calls with weights that the loss is made of by calls without any; empty where none carries samples.

    Numbers that weigh the parts of a loss are passed through. Calls after the ends are the loss's from here on.
    """
    calls = capture.calls
    waiting, found, passed = [capture.loss_index], set[int](), set[int]()
    while waiting:
        index = waiting.pop()
        if index is None or index < 0 or index in found or index in passed:
            continue
        if _ends(calls[index], batch_size):
            found.add(index)
        else:
            passed.add(index)
            waiting += calls[index].inputs
    if found:
        before = capture.leading_to(found)
        for index in passed - before:
            calls[index].part = "loss"
    return sorted(found)


def met_inside(capture: Capture) -> Met | None:
    """Where, in a loss that the model computes, shapes meet that both stretch; None where none do."""
    if capture.loss_index is None:
        return None
    for index in sorted(capture.met):
        if capture.calls[index].part == "loss":
            return capture.met[index]
    return None


def all_meet(outputs: tuple[int, ...], targets: tuple[int, ...]) -> bool:
    """Whether both shapes are stretched when they meet: then each of one meets several of the other."""
    width = max(len(outputs), len(targets))
    padded = [(1,) * (width - len(shape)) + shape for shape in (outputs, targets)]
    pairs = list(zip(*padded, strict=True))
    fit = all(a == b or 1 in (a, b) for a, b in pairs)
    return fit and any(a == 1 < b for a, b in pairs) and any(b == 1 < a for a, b in pairs)


COPIES = ("repeat", "tile", "repeat_interleave")


def before_copies(given: Tensor, made: Tensor) -> Tensor | None:
    """What a call of COPIES was given, with the dimensions of its result; None where it copied more than single rows.

    A dimension of size 1 that is repeated is stretched, as one that is expanded is, with the numbers written out.
    """
    shape = (1,) * (made.ndim - given.ndim) + tuple(given.shape)
    stretched = len(shape) == made.ndim and all(a in (1, b) for a, b in zip(shape, made.shape, strict=True))
    return given.detach().reshape(shape) if stretched and given.numel() < made.numel() else None


def unstretched(tensor: Tensor) -> Tensor:
    """The tensor without what ``expand`` repeats: along such a dimension all entries are one and the same number."""
    for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        tensor = tensor.narrow(axis, 0, 1) if stride == 0 and size > 1 else tensor
    return tensor


def roots_of(capture: Capture, ends: list[int]) -> list[Root]:
    """Where walks begin at these calls."""
    nodes: dict[int, list[Node]] = {index: [] for index in ends}
    for node, index in capture.owner.items():
        if index in nodes and not is_gone(node):
            nodes[index].append(node)
    return [root for index in ends if (root := _root(capture.calls[index], nodes[index])) is not None]


def _ends(call: Call, batch_size: int) -> bool:
    carries = call.numel > 1 and call.numel >= batch_size
    return bool(call.parameters) and (carries or call.name in PRODUCTS)


def _root(call: Call, nodes: list[Node]) -> Root | None:
    """The node of the call that no other of its nodes leads to."""
    inner = {child for node in nodes for child, _ in node.next_functions}
    last = next((node for node in nodes if node not in inner), None)
    if last is None:
        return None
    metadata = last._input_metadata[0]
    return Root((last, 0), tuple(metadata.shape), metadata.dtype, metadata.device, call.rms)
