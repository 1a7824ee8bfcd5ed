"""What the tests share: golden numbers, one thread, and a check that nothing of the user's was touched."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT.parent / "shared" / "golden"
HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)

torch.set_num_threads(1)
# A shell's background jobs begin with interrupts ignored, and hand that on: tests that interrupt would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SLOW = (
    # networks are trained, or many are checked
    "test_alike", "test_benchmarks", "test_claims", "test_deep", "test_fix", "test_frozen_rates", "test_invariances",
    "test_judged_again", "test_lab", "test_mnist", "test_no_scale", "test_normalised_growth", "test_own_branches",
    "test_own_loss", "test_partly_measured", "test_random_models", "test_rates", "test_remedies",
    "test_reported_programs", "test_rises", "test_rules_on_zoo", "test_small_failures", "test_through_time",
    "test_trial", "test_vanishing_level", "test_whatif", "test_zoo",
    # trainings are watched, sweeps and runs compared
    "test_against", "test_run", "test_sweep", "test_view", "test_watch",
    # other processes, a browser, a server, other frameworks
    "in_browser", "test_charts_drawn", "test_cli_run", "test_contributing", "test_disks", "test_fuzz", "test_grid",
    "test_huggingface", "test_integrations", "test_kills", "test_left_behind", "test_no_network", "test_programs",
    "test_ray", "test_server", "test_show_for_programs", "test_supply_chain", "test_two_writers",
    "test_web",
)  # fmt: skip
"""Parts of the names of files whose tests take long, by why they do: `make check` leaves them out."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files that are left out need not be read either: their imports take longer than many a test."""
    quick = config.getoption("markexpr") == "not slow"
    return True if quick and any(part in collection_path.name for part in SLOW) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(part in item.path.name for part in SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def golden() -> Callable[[str], Any]:
    """``golden("seeds")`` is the content of shared/golden/seeds.json, which lies beside the checkout."""

    def load(name: str) -> Any:
        path = GOLDEN / f"{name}.json"
        if not path.is_file():
            pytest.skip(
                f"shared/golden/{name}.json is not beside this checkout: its independent numbers are not at hand"
            )
        return json.loads(path.read_text())

    return load


@pytest.fixture
def same_before_and_after() -> Callable[..., AbstractContextManager[None]]:
    """``with same_before_and_after(model, optimizer): …`` fails unless all of it is, bit for bit, as it was."""
    return _same_before_and_after


@contextmanager
def _same_before_and_after(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Iterator[None]:
    before = dict(snapshot(model, optimizer))
    yield
    after = dict(snapshot(model, optimizer))
    assert before.keys() == after.keys(), f"appeared or went: {sorted(before.keys() ^ after.keys())}"
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"changed: {changed}"


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Iterator[tuple[str, Any]]:
    """Name and value of everything that must stay: tensors as bytes, with their identity and version."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        yield f"parameter {name}", (id(parameter), parameter.requires_grad, _bits(parameter))
        yield f"hooks of parameter {name}", len(parameter._backward_hooks or ())
        gradient = parameter.grad
        yield f"gradient {name}", None if gradient is None else (id(gradient), _bits(gradient))
    for name, buffer in model.named_buffers(remove_duplicate=False):
        yield f"buffer {name}", (id(buffer), _bits(buffer))
    for name, module in model.named_modules(remove_duplicate=False):
        yield f"mode of {name!r}", module.training
        yield f"hooks of {name!r}", [list(getattr(module, hooks)) for hooks in HOOKS]
        yield f"attributes of {name!r}", sorted(vars(module))
    if optimizer is not None:
        yield "optimizer", _plain(optimizer.state_dict())
    yield "torch's random state", _bits(torch.get_rng_state())
    yield "Python's random state", random.getstate()
    yield "gradient mode", torch.is_grad_enabled()


def _bits(tensor: torch.Tensor) -> tuple[Any, ...]:
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else tensor
    return tensor.dtype, tuple(tensor.shape), data.numpy().tobytes()


def _plain(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return _bits(tree)
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_plain(value) for value in tree]
    return tree
