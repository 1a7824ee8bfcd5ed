"""Other activations, wherever they are called: as modules, as attributes, or as functions in a module's forward."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from unvanish.remedies import surgery
from unvanish.remedies.anatomy import ACTIVATIONS, SQUASHES, Anatomy, Site, plain
from unvanish.remedies.draft import Change, Draft, Refused, outputs_of
from unvanish.trace.structure import tensors


def swap(draft: Draft, anatomy: Anatomy, sites: Sequence[Site], make: str, sentence: str, parts: Any = ()) -> Change:
    """Put ``make()`` in place of these activations. Raises Refused where one of them cannot be reached."""
    modules, calls = _plan(draft, anatomy, sites)
    code: list[str] = []
    if modules:
        code.append(f"model = replace(model, {modules!r}, {make})")
    for owner in sorted(calls, key=len, reverse=True):
        code.append(f"model = replace_calls(model, {owner!r}, {calls[owner]!r}, {make})")
    needed = [*parts, *([surgery.replace] if modules else []), *([surgery.replace_calls] if calls else [])]
    return draft.apply(sentence, needed, code, [*modules, *calls])


def _plan(draft: Draft, anatomy: Anatomy, sites: Sequence[Site]) -> tuple[list[str], dict[str, list[str]]]:
    """Paths to put a new module at, and per module the calls of its forward to replace."""
    modules: list[str] = []
    traced: dict[str, list[int]] = {}
    for site in sites:
        mixed = [other for other in anatomy.sites if other.path == site.path and other not in sites]
        paths = _module_paths(draft.model, anatomy, site, mixed) if site.module else _attribute(anatomy, site, mixed)
        if paths is not None:
            modules += paths
            continue
        for index in site.calls:
            traced.setdefault(_owner(anatomy, index, site.module), []).append(index)
    return list(dict.fromkeys(modules)), {path: _nodes(draft, anatomy, path, c) for path, c in traced.items()}


def _module_paths(model: nn.Module, anatomy: Anatomy, site: Site, mixed: list[Site]) -> list[str] | None:
    """All paths of an activation module; where it is used for something else too, those of the wanted calls."""
    module = anatomy.modules[site.path]
    paths = [path for path, each in model.named_modules(remove_duplicate=False) if each is module]
    if not mixed:
        return paths
    every = sorted(index for each in (site, *mixed) for index in each.calls)
    in_order = all(isinstance(model.get_submodule(path.rpartition(".")[0]), nn.Sequential) for path in paths)
    if not in_order or len(every) != len(paths):
        return None
    return [path for path, index in zip(paths, every, strict=True) if index in site.calls]


def _attribute(anatomy: Anatomy, site: Site, mixed: list[Site]) -> list[str] | None:
    """The attribute that holds the function, as ``layer.activation`` of torch's transformer layers."""
    owner = anatomy.modules[site.path]
    held = [key for key, value in vars(owner).items() if callable(value) and _name_of(value) == site.name]
    same = [other for other in mixed if other.name == site.name]
    return [f"{site.path}.{held[0]}".lstrip(".")] if len(held) == 1 and not same else None


def _owner(anatomy: Anatomy, index: int, inside_module: bool) -> str:
    frames = anatomy.calls[index].frames
    return frames[-2][0] if inside_module else frames[-1][0]


def _nodes(draft: Draft, anatomy: Anatomy, path: str, wanted: list[int]) -> list[str]:
    """The names, in the traced forward of one module, of the activations behind these calls."""
    graph = traced(draft, path)
    owner = anatomy.modules[path]
    prefix = f"{path}." if path else ""
    sites = {site.path for site in anatomy.sites if site.module}
    nodes: list[tuple[str, str]] = []
    for node in graph.nodes:
        if node.op == "call_module" and _first_path(draft.model, owner.get_submodule(str(node.target))) in sites:
            nodes.append((node.name, _first_path(draft.model, owner.get_submodule(str(node.target)))))
        elif node.op in ("call_function", "call_method") and _name_of(node.target) in ACTIVATIONS | SQUASHES:
            nodes.append((node.name, _name_of(node.target)))
    chosen: list[str] = []
    for turn, events in _events(anatomy, path).items():
        if [what for what, _ in events] != [what for _, what in nodes]:
            raise Refused(
                f"the activations that run in {path or 'the model'} are not those of its forward as torch.fx reads it"
                f" (call {turn}); change them in the source"
            )
        here = [node for (node, _), (_, calls) in zip(nodes, events, strict=True) if set(calls) & set(wanted)]
        if chosen and here != chosen:
            raise Refused(
                f"{path or 'the model'} is called several times, and one of its activations makes an output in one call"
                f" and not in another; give {prefix or 'it '}two activations"
            )
        chosen = here
    return chosen


def _events(anatomy: Anatomy, path: str) -> dict[int, list[tuple[str, list[int]]]]:
    """Per call of a module: the activations of its forward in order, as (name, or path of a module; calls)."""
    found: dict[int, dict[Any, tuple[str, list[int]]]] = {}
    for site in anatomy.sites:
        for index in site.calls:
            frames = anatomy.calls[index].frames
            depth = -2 if site.module else -1
            if len(frames) < -depth or frames[depth][0] != path:
                continue
            key = frames[-1] if site.module else index
            name = site.path if site.module else site.name
            found.setdefault(frames[depth][1], {}).setdefault(key, (name, []))[1].append(index)
    return {turn: sorted(events.values(), key=lambda event: event[1]) for turn, events in found.items()}


def traced(draft: Draft, path: str) -> fx.Graph:
    """The forward of one module as a graph, once it is known to do what the module does. Raises Refused."""
    return draft.cached(("graph", path), lambda: _traced(draft, path))


def _traced(draft: Draft, path: str) -> fx.Graph:
    where = path or "the model"
    owner, other = (copy.deepcopy(draft.model).get_submodule(path) for _ in range(2))
    try:
        graph = surgery.trace(owner)
        in_other_mode = surgery.trace(other.train(not other.training))
    except Exception as error:
        raise Refused(
            f"what is to be changed is a call in the forward of {where}, which torch.fx cannot trace"
            f" ({type(error).__name__}: {error}); change it in the source"
        ) from error
    if str(graph) != str(in_other_mode):
        raise Refused(f"the forward of {where} depends on self.training, which a traced copy would lose")
    again = surgery.put(copy.deepcopy(draft.model), path, fx.GraphModule(owner, graph).train(owner.training))
    for seed in range(2):
        if not _same(_outputs(draft.model, draft.inputs, seed), _outputs(again, draft.inputs, seed)):
            raise Refused(f"torch.fx reads the forward of {where} as something else than it does; change it by hand")
    return graph


def _outputs(model: nn.Module, inputs: Any, seed: int) -> list[torch.Tensor] | str:
    try:
        return list(tensors(outputs_of(model, inputs, seed)))
    except Exception as error:  # a traced forward may fail where the real one does not
        return str(error)


def _same(first: list[torch.Tensor] | str, second: list[torch.Tensor] | str) -> bool:
    if isinstance(first, str) or isinstance(second, str) or len(first) != len(second):
        return False
    return all(torch.allclose(a, b, equal_nan=True) for a, b in zip(first, second, strict=True))


def _name_of(target: Any) -> str:
    return plain(target if isinstance(target, str) else getattr(target, "__name__", ""))


def _first_path(model: nn.Module, module: nn.Module) -> str:
    return next(path for path, each in model.named_modules() if each is module)
