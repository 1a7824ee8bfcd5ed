"""Where a forward pass that cannot be run again made its first bad number: read off the graph that it has left.

The nodes of the graph keep some of what they were given and of what they made. Between the last result that is known to
be finite and the first that is known not to be lies the call; where several lie between, all of them are named.
Nothing is run: a node of a model that is spread over processes would wait for the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from unvanish.watching.loss_graph import name_of
from unvanish.watching.norms import is_there

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
    """Whether what it keeps under this name holds neither nan nor +inf; None where it keeps nothing there.

    What was put away by a hook is not asked for: a checkpoint would run its part of the forward pass again.
    """
    try:
        raw = getattr(node, f"_raw{name}", None)
        kept = getattr(node, name, None) if getattr(raw, "unpack_hook", raw) is None else None
    except RuntimeError:  # a backward before this one has freed it, or it was written over
        return None
    if not isinstance(kept, Tensor) or hasattr(kept, "to_local"):
        return None
    if not is_there(kept):  # such as weights that were gathered for the call alone
        return None
    return not bool((kept.isnan() | kept.eq(math.inf)).any())


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
