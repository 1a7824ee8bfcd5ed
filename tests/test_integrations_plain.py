"""Frameworks that need no callback of ours, watched as any loop; and what a missing or broken package says."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import unvanish
from unvanish import UnvanishError
from unvanish.integrations.required import required

pytestmark = pytest.mark.filterwarnings("ignore")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def batches(count: int = 8) -> list[tuple[Any, Any]]:
    found = []
    for at in range(count):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(at))
        found.append((x, x[:, :2].argmax(1)))
    return found


def norm(net: nn.Module) -> float:
    return float(torch.stack([p.grad.norm() for p in net.parameters() if p.grad is not None]).norm())


def test_accelerate_as_it_is_prepared_accumulated_and_clipped(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: pip install accelerate")
    accelerator = accelerate.Accelerator(gradient_accumulation_steps=2, cpu=True)
    net, seen = network(), []
    model, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), 0.1))
    with unvanish.watch(model, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        for x, y in batches():
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(x), y))
                if accelerator.sync_gradients:
                    seen.append(float(accelerator.clip_grad_norm_(model.parameters(), 0.05)))
                optimizer.step()
                optimizer.zero_grad()
    saved = unvanish.load_run(run.path)
    assert saved.steps == (0, 1, 2, 3) and saved.layers == ("0", "2")
    assert [10**value for value in saved.whole("total_log10_grad_norm")] == pytest.approx(seen, rel=1e-4)
    assert [10**value for value in saved.whole("log10_grad_norm_clipped")] == pytest.approx([0.05] * 4, rel=1e-4)
    accelerate.state.AcceleratorState._reset_state(True)


def test_the_shorter_last_group_of_each_epoch_is_shown_and_is_no_finding(tmp_path: Path) -> None:
    """Accelerate divides it by 4, too: the last of three steps has half of the gradient, and nothing is ill."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: pip install accelerate")
    accelerator = accelerate.Accelerator(gradient_accumulation_steps=4, cpu=True)
    net, one = network(), batches(1)[0]
    rows: Any = [(one[0][k], one[1][k]) for k in range(16)] * 10  # ten batches of the same rows: four, four and two
    loader = torch.utils.data.DataLoader(rows, batch_size=16)
    model, optimizer, loader = accelerator.prepare(net, torch.optim.SGD(net.parameters(), 1e-4), loader)
    with unvanish.watch(model, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        for _ in range(10):
            for x, y in loader:
                with accelerator.accumulate(model):
                    accelerator.backward(F.cross_entropy(model(x), y))
                    optimizer.step()
                    optimizer.zero_grad()
    saved = unvanish.load_run(run.path)
    norms = [10**value for value in saved.whole("total_log10_grad_norm")]
    assert len(norms) == 30
    assert [norms[k] / norms[k - 1] for k in range(2, 30, 3)] == pytest.approx([0.5] * 10, rel=1e-2)
    assert not [each for each in saved.findings if each.level == "error"]
    accelerate.state.AcceleratorState._reset_state(True)


def test_ignite_with_a_check_of_its_batch_in_a_handler(tmp_path: Path) -> None:
    engines = pytest.importorskip("ignite.engine", reason="Ignite is not installed: pip install pytorch-ignite")
    net, seen, reports = network(), [], []
    ready: Any = engines.EventEnum("Gradients", "READY")
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def update(engine: Any, batch: Any) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(batch[0]), batch[1])
        loss.backward()
        seen.append(norm(net))
        engine.fire_event(ready.READY)
        optimizer.step()
        return float(loss.detach())

    trainer = engines.Engine(update)
    trainer.register_events(*ready)
    with unvanish.watch(net, optimizer, every=2, to=tmp_path / "r.unvanish") as run:
        trainer.add_event_handler(ready.READY, lambda engine: reports.append(run.check()))
        trainer.run(batches(), max_epochs=1)
    saved = unvanish.load_run(run.path)
    assert saved.steps == (0, 2, 4, 6) and saved.facts["steps"] == 8
    assert [10**value for value in saved.whole("total_log10_grad_norm")] == pytest.approx(seen[::2], rel=1e-4)
    assert len(reports) == 8 and {report.verdict for report in reports} == {"healthy"}


FRAMEWORKS = {
    "lightning": ("lightning.pytorch", "pip install lightning"),
    "huggingface": ("transformers.trainer_callback", "pip install 'transformers"),
    "keras": ("keras.callbacks", "pip install keras"),
}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_framework_that_is_not_there_is_named_with_what_to_install(name: str, monkeypatch: Any) -> None:
    module = importlib.import_module(f"unvanish.integrations.{name}")
    monkeypatch.delitem(vars(module), "Watch", raising=False)
    theirs, install = FRAMEWORKS[name]
    for missing in {theirs, "pytorch_lightning"}:
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UnvanishError, match=install):
        module.Watch()
    assert not hasattr(module, "Other")


@pytest.mark.parametrize("error", ["ValueError('bad wheel')", "ImportError('x.so')", "ModuleNotFoundError(name='z')"])
def test_an_import_that_fails_for_any_reason_says_which_and_why(error: str, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "half_installed.py").write_text(f"raise {error}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnvanishError, match=r"half_installed is installed, and its import fails: \w+Error"):
        required("half_installed", install="half-installed")
    with pytest.raises(
        UnvanishError, match=r"needs not_there\.inner or nor_this, which is not installed: pip install x"
    ):
        required("not_there.inner", "nor_this", install="x")


def test_reading_an_integration_imports_no_framework() -> None:
    program = (
        "import sys, unvanish.integrations.lightning, unvanish.integrations.huggingface, unvanish.integrations.keras;"
        "print([name for name in ('lightning', 'transformers', 'keras', 'tensorboard', 'wandb', 'mlflow')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
