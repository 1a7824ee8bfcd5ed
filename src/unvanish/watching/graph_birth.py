"""Where a pass that cannot be run again made its first bad number: read off the graph that it has left.

On the way forward, the nodes of the graph keep some of what they were given and of what they made: between the last
result that is known to be finite and the first that is known not to be lies the call. On the way back they have kept
nothing, but the gradients tell: between the last layer whose gradient is not finite and the next ones, whose gradients
are, lies the call. Where several lie between, all of them are named, or those whose slope can be infinite.
Nothing is run: a node of a model that is spread over processes would wait for the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from unvanish.watching.loss_graph import kept, name_of, steep
from unvanish.watching.norms import is_there, local

ALL = 20_000
"""Nodes that are looked at; a transformer of a hundred layers has fewer."""

FEW = 3
"""So many calls are named; where more lie between, only the last known layer before them is."""

GIVEN = {"_saved_self": 0, "_saved_input": 0, "_saved_other": 1, "_saved_mat1": 1}
"""Where a node keeps what it was given, and of which of the nodes before it that is the result."""

HARMLESS = frozenset((
    "view", "reshape", "reshape_alias", "unsafe_view", "t", "transpose", "permute", "expand", "select", "slice",
    "squeeze", "unsqueeze", "clone", "cat", "stack", "split", "split_with_sizes", "unbind", "relu", "tanh", "sigmoid",
    "clamp", "as_strided", "alias", "index", "index_select", "gather", "embedding", "masked_fill",
    "register_post_backward_function",
))  # fmt: skip
"""Calls that make neither nan nor +inf of finite numbers, whatever these are."""


def born_in(root: Any, modules: Iterable[nn.Module]) -> str:
    """The call that made the first number of this graph that is not finite, after which layer; "" where none is seen.

    NaN and +infinity count: −infinity is a mask's, as a rule.
    """
    nodes = _nodes(root)
    fine: dict[Any, bool] = {}
    for node in nodes:
        if (made := _is_fine(node, "_saved_result")) is not None:
            fine[node] = made
        for name, at in GIVEN.items():
            before = node.next_functions[at][0] if at < len(node.next_functions) else None
            if _is_call(before) and (given := _is_fine(node, name)) is not None:
                fine[before] = given and fine.get(before, True)
    first = next((node for node in nodes if fine.get(node) is False), None)
    if first is None:
        return ""
    suspects, waiting = {first}, [first]
    while waiting:
        ahead = {each for each, _ in waiting.pop().next_functions if _is_call(each)}
        new = {each for each in ahead if each not in fine} - suspects
        suspects |= new
        waiting += new
    calls = [node for node in nodes if node in suspects and name_of(node) not in HARMLESS]
    if not calls:
        return ""
    names = list(dict.fromkeys(name_of(node) for node in calls))
    which = names[0] if len(names) == 1 else f"one of {', '.join(names[:FEW])}" if len(names) <= FEW else "a call"
    return which + _after(nodes, calls[0], names_of(modules))


def broke_in(root: Any, modules: Iterable[nn.Module]) -> tuple[str, str]:
    """The call in whose backward the gradients of these models broke, and between which layers; "" where none is seen.

    First such calls as can have an infinite slope; the second says where it was, also of others.

    After the backward, by what ``.grad`` holds: of a weight that is spread over processes the part that lies here.
    """
    every = list(modules)
    bad = {name.rpartition(".")[0] for each in every for name, p in each.named_parameters() if _is_odd(p.grad)}
    nodes, names = _nodes(root), names_of(every)
    owners = {node: owner for node in nodes if (owner := _owner(node, names))}
    last = next((node for node in reversed(nodes) if owners.get(node) in bad), None)
    if last is None:
        return "", ""
    if any(owner not in bad for owner in _reached(last, owners)):  # what came back to its output went on, and was fine
        return "", f"the weights' own gradient in {name_of(last)} of layer {owners[last]}"
    consumers: dict[Any, list[Any]] = {}
    for node in nodes:
        for ahead, _ in node.next_functions:
            consumers.setdefault(ahead, []).append(node)
    found: dict[Any, None] = {}
    waiting = [*consumers.get(last, ())]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found[node] = None
            waiting += () if node in owners else consumers.get(node, ())
    between = sorted(found, key=lambda node: node._sequence_nr())
    after = next((f"layer {owners[node]}" for node in between if node in owners), "the loss")
    where = f"between layer {owners[last]} and {after}"
    if calls := steep(between):
        return f"{' or '.join(calls)}, whose slope can be infinite, {where}", where
    names = list(dict.fromkeys(name_of(node) for node in between))
    which = f" ({', '.join(names)})" if len(names) <= FEW else ""
    return "", f"a call {where}{which}, or a hook on a tensor there"


def _is_odd(gradient: Tensor | None) -> bool:
    return gradient is not None and not gradient.is_sparse and not bool(local(gradient.detach()).isfinite().all())


def _owner(node: Any, names: Mapping[int, str]) -> str:
    """The layer whose weights a call takes; "" where it takes none."""
    ahead = [each for each, _ in node.next_functions if each is not None]
    return next((names[id(p)] for p in _parameters(ahead) if id(p) in names), "")


def _reached(node: Any, owners: Mapping[Any, str]) -> set[str]:
    """The layers that the error signal reaches after this call."""
    found: set[Any] = set()
    waiting = [ahead for ahead, _ in node.next_functions if _is_call(ahead)]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += [ahead for ahead, _ in each.next_functions if _is_call(ahead)]
    return {owners[each] for each in found if each in owners}


def _nodes(root: Any) -> list[Any]:
    """The calls of a graph in the order in which they ran."""
    found: dict[Any, None] = {}
    waiting = [root] if _is_call(root) else []
    while waiting and len(found) < ALL:
        node = waiting.pop()
        if node not in found:
            found[node] = None
            waiting += [ahead for ahead, _ in node.next_functions if _is_call(ahead)]
    return sorted(found, key=lambda node: node._sequence_nr())


def _is_call(node: Any) -> bool:
    """Whether it is a node, and no parameter's."""
    return node is not None and not hasattr(node, "variable")


def _is_fine(node: Any, name: str) -> bool | None:
    """Whether what it keeps under this name holds neither nan nor +inf; None where it keeps nothing there."""
    tensor = kept(node, name)
    if not isinstance(tensor, Tensor) or hasattr(tensor, "to_local"):
        return None
    if not is_there(tensor):  # such as weights that were gathered for the call alone
        return None
    return not bool((tensor.isnan() | tensor.eq(math.inf)).any())


def _after(nodes: list[Any], call: Any, layers: Mapping[int, str]) -> str:
    """The last layer that had run when this call did."""
    last = ""
    for node in nodes:
        ahead = [each for each, _ in node.next_functions if each is not None]
        mine = next((layers[id(p)] for p in _parameters(ahead) if id(p) in layers), "")
        if node is call and mine:
            return f" of layer {mine}"
        if node is call:
            break
        last = mine or last
    return f", after layer {last}" if last else ""


def _parameters(nodes: list[Any]) -> list[Any]:
    """Those that come in, also by way of a transposition."""
    more = [each for node in nodes if _is_call(node) and name_of(node) == "t" for each, _ in node.next_functions]
    return [each.variable for each in (*nodes, *more) if hasattr(each, "variable")]


def names_of(modules: Iterable[nn.Module]) -> dict[int, str]:
    """The paths of layers by the ids of their parameters, also of those that fully_shard gathers for a call."""
    found: dict[int, str] = {}
    for module in modules:
        for name, each in module.named_parameters():
            found[id(each)] = name.rpartition(".")[0]
        for part in module.modules():
            state = getattr(part, "_get_fsdp_state", lambda: None)()
            group = getattr(state, "_fsdp_param_group", None)  # no public way leads from the gathered ones to a name
            for each in getattr(group, "fsdp_params", ()):
                gathered, name = getattr(each, "_unsharded_param", None), getattr(each, "_param_fqn", None)
                if gathered is not None and name:
                    found[id(gathered)] = name.rpartition(".")[0]
    return found
