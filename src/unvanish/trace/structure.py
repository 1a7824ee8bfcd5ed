"""What goes into a model and comes out of it: tensors in nested containers and records of every kind libraries use."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from unvanish.records import UnvanishError


def inner_loss(outputs: Any) -> Any:
    """``outputs.loss`` or ``outputs["loss"]``, or None."""
    try:
        loss = getattr(outputs, "loss", None)
    except Exception:  # a __getattr__ that looks into the mapping may raise a KeyError
        loss = None
    if loss is None and isinstance(outputs, Mapping):
        loss = outputs.get("loss")
    return loss


def tensors(tree: Any) -> Iterator[Tensor]:
    """Each tensor in nested tuples, lists, mappings, dataclasses and namespaces once, in order, however deep."""
    if isinstance(tree, Tensor):  # as a rule
        yield tree
        return
    seen: set[int] = set()
    kept: list[Any] = []  # what is only made on the way must outlive its id
    waiting: list[Any] = [tree]
    while waiting:
        value = waiting.pop()
        plain = isinstance(value, Tensor)
        if (not plain and _is_atom(value)) or id(value) in seen:
            continue
        seen.add(id(value))
        kept.append(value)
        if plain:
            yield value
        else:
            waiting.extend(reversed(_parts(value)))


def _is_atom(value: Any) -> bool:
    return value is None or isinstance(value, (str, bytes, int, float, complex, type))


def _parts(value: Any) -> list[Any]:
    """What a container or a record holds; nothing for anything else."""
    if isinstance(value, Mapping):
        return [value[key] for key in value]
    if isinstance(value, (tuple, list)):
        return [part for part in value]  # noqa: C416 - list() asks for a length, which some tuples refuse
    return [attribute for name in _fields(value) if (attribute := _attribute(value, name)) is not None]


def _fields(value: Any) -> list[str]:
    """The names of what a dataclass, an attrs class, a namespace or a distribution holds."""
    if isinstance(value, (SimpleNamespace, Distribution)):
        return list(vars(value))
    kind = type(value)
    if (fields := getattr(kind, "__dataclass_fields__", None)) is not None:
        return list(fields)
    return [field.name for field in getattr(kind, "__attrs_attrs__", ())]


def _attribute(value: Any, name: str) -> Any:
    try:
        return object.__getattribute__(value, name)
    except AttributeError:  # a field that was never set
        return None


def arguments(tree: Any) -> list[Tensor]:
    """Every tensor among the arguments of a call; quick, because it runs for each call."""
    if isinstance(tree, Tensor):
        return [tree]
    gathered: list[Tensor] = []
    _gather((tree,), gathered)
    return gathered


def given_to(args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    """The same of the arguments of one call."""
    gathered: list[Tensor] = []
    _gather(args, gathered)
    if kwargs:
        _gather(kwargs.values(), gathered)
    return gathered


def _gather(values: Iterable[Any], into: list[Tensor]) -> None:
    for value in values:
        kind = type(value)
        if kind is int or value is None:  # as a rule, if not a tensor
            continue
        if kind is Tensor or isinstance(value, Tensor):
            into.append(value)
        elif isinstance(value, (tuple, list)):
            _gather(value, into)
        elif isinstance(value, dict):
            _gather(value.values(), into)


def detached(tree: Any) -> Any:
    """The same structure with every tensor cut off the graph (containers are new, other objects the same)."""
    return rebuild(tree, lambda t: t.detach())


def rebuild(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same structure, of the same types, with ``change(tensor)`` in place of every tensor.

    What holds no tensor stays the same object. A tensor that stands in several places is changed once. Constructors are
    not run: they may take other arguments than what they hold.
    """
    return _Rebuilt(change).of(tree)


DEEPEST = 200  # containers in containers


class _Rebuilt:
    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        self.change = change
        self.done: dict[int, tuple[Any, Any]] = {}  # by id: the original, kept alive, and what stands for it
        self.depth = 0

    def of(self, value: Any) -> Any:
        if not isinstance(value, Tensor) and _is_atom(value):
            return value
        if id(value) in self.done:
            return self.done[id(value)][1]
        if isinstance(value, Tensor):
            self.done[id(value)] = value, self.change(value)
            return self.done[id(value)][1]
        if next(tensors(value), None) is None:
            return value
        if self.depth >= DEEPEST:
            raise UnvanishError(f"tensors lie more than {DEEPEST} containers deep; return them in a flatter structure")
        self.depth += 1
        self.done[id(value)] = value, self.container(value)
        self.depth -= 1
        return self.done[id(value)][1]

    def container(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return self.tuple(value)
        if isinstance(value, MappingProxyType):
            return MappingProxyType({key: self.of(value[key]) for key in value})
        # An empty object of the same type is entered before its parts: one of them may lead back to it.
        new: Any = type(value).__new__(type(value))  # pyright: ignore[reportCallIssue]
        self.done[id(value)] = value, new
        if isinstance(value, defaultdict):
            new.default_factory = value.default_factory
        for name, attribute in _own(value).items():  # before the items: setting an item may need them
            object.__setattr__(new, name, self.of(attribute))
        if isinstance(value, list):
            list.extend(new, (self.of(item) for item in value))
        elif isinstance(value, OrderedDict):
            for key in value:
                OrderedDict.__setitem__(new, key, self.of(dict.__getitem__(value, key)))
        elif isinstance(value, dict):
            dict.update(new, {key: self.of(item) for key, item in dict.items(value)})
        return new

    def tuple(self, value: Any) -> Any:
        parts = [self.of(item) for item in value]
        if hasattr(type(value), "n_sequence_fields"):  # torch.return_types: only their own constructor makes one
            return type(value)(parts)
        new = tuple.__new__(type(value), parts)
        for name, attribute in _own(value).items() if type(value) is not tuple else ():
            object.__setattr__(new, name, self.of(attribute))
        return new


def _own(value: Any) -> dict[str, Any]:
    """What stands in the object's ``__dict__`` and slots, beside its items."""
    attributes: dict[str, Any] = {}
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and (held := _attribute(value, name)) is not None:
                attributes[name] = held
    namespace = _attribute(value, "__dict__")
    return {**attributes, **namespace} if isinstance(namespace, dict) else attributes
