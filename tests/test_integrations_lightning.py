"""The callback for Lightning, with the real package: what it records is what the optimizer saw."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import unvanish

lightning: Any = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed: pip install lightning")
pytestmark = pytest.mark.filterwarnings("ignore")


def data(samples: int = 64) -> torch.utils.data.DataLoader[Any]:
    x = torch.randn(samples, 6, generator=torch.Generator().manual_seed(1))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x[:, :3].argmax(1)), 16)


class Net(lightning.LightningModule):
    """Notes what it sees in the hook in which Lightning promises complete, unscaled gradients."""

    def __init__(self, manual: bool = False, depth: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        hidden = [layer for _ in range(depth) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Sigmoid(), *hidden, nn.Linear(16, 3))
        self.automatic_optimization = not manual
        self.seen: list[float] = []
        self.losses: list[float] = []

    def training_step(self, batch: Any, at: int) -> Any:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.losses.append(float(loss))
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def validation_step(self, batch: Any, at: int) -> None:
        self.net(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.seen.append(float(torch.stack([p.grad.norm() for p in self.parameters() if p.grad is not None]).norm()))


def watched(folder: Path, model: Any = None, validation: Any = None, also: tuple[Any, ...] = (), resume: Any = None,
            watch: dict[str, Any] | None = None, **trainer: Any) -> tuple[Any, Any, Any]:  # fmt: skip
    from unvanish.integrations.lightning import Watch

    model = model or Net()
    callback = Watch(every=1, to=folder, **(watch or {}))
    given = {"max_epochs": 1, "logger": False, "enable_checkpointing": False} | trainer
    fit = lightning.Trainer(
        accelerator="cpu", callbacks=[callback, *also], enable_progress_bar=False, enable_model_summary=False, **given
    )
    fit.fit(model, data(), validation, ckpt_path=resume)
    return unvanish.load_run(callback.run.path), model, callback


def unclipped(run: Any) -> list[float]:
    return [10.0**value for value in run.whole("total_log10_grad_norm")]


@pytest.mark.parametrize(
    "trainer", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}], ids=["plain", "accumulated", "bf16"]
)
def test_the_gradient_is_the_one_lightning_shows_before_its_step(trainer: dict[str, Any], tmp_path: Path) -> None:
    run, model, callback = watched(tmp_path, **trainer)
    assert not callback.run.watcher.failed
    assert unclipped(run) == pytest.approx(model.seen, rel=1e-4)
    parts = trainer.get("accumulate_grad_batches", 1)
    means = [sum(model.losses[at : at + parts]) / parts for at in range(0, len(model.losses), parts)]
    assert run.whole("loss") == pytest.approx(means, rel=1e-5)
    assert run.report().setting.autocast == ("bfloat16" if "precision" in trainer else "")


def test_accumulated_signals_are_those_of_the_large_batch(tmp_path: Path) -> None:
    run, _, _ = watched(tmp_path, accumulate_grad_batches=4)
    net = Net().net
    x, y = (torch.cat(each) for each in zip(*data(), strict=True))
    wanted = unvanish.diagnose(net, x, y, F.cross_entropy)
    for layer in wanted.layers:
        assert run.by_layer("log10_signal")[f"net.{layer.name}"][0] == pytest.approx(layer.log10_signal, abs=1e-4)


def test_clipping_is_seen_from_both_sides(tmp_path: Path) -> None:
    run, model, _ = watched(tmp_path, gradient_clip_val=0.01)
    assert unclipped(run) == pytest.approx(model.seen, rel=1e-4) and min(model.seen) > 0.02
    assert [10.0**value for value in run.whole("log10_grad_norm_clipped")] == pytest.approx([0.01] * 4, rel=1e-3)


def test_a_loop_that_optimizes_by_hand_and_validates_is_read_as_well(tmp_path: Path) -> None:
    run, model, _ = watched(tmp_path, Net(manual=True))
    assert unclipped(run) == pytest.approx(model.seen, rel=1e-4) and len(model.seen) == 4
    beside, _, _ = watched(tmp_path, Net(manual=True), data(256), val_check_interval=1)
    assert beside.by_layer("log10_signal") == run.by_layer("log10_signal")


class Gan(lightning.LightningModule):
    """Two optimizers, each with its own loss; the gradients that one leaves behind lie in the other's weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.made, self.judge = nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        self.automatic_optimization = False
        self.norms: dict[str, list[float]] = {"made": [], "judge": []}

    def training_step(self, batch: Any, at: int) -> None:
        x, _ = batch
        first, second = self.optimizers()  # type: ignore[misc]
        for name, optimizer, loss in (
            ("made", first, lambda: F.softplus(-self.judge(self.made(x))).mean()),
            ("judge", second, lambda: F.softplus(self.judge(self.made(x).detach())).mean()),
        ):
            optimizer.zero_grad()
            self.manual_backward(loss())
            parameters = getattr(self, name).parameters()
            self.norms[name].append(float(torch.stack([p.grad.norm() for p in parameters]).norm()))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.made.parameters(), 0.1), torch.optim.SGD(self.judge.parameters(), 0.1)]


def test_of_several_optimizers_each_is_read_at_its_own_step(tmp_path: Path) -> None:
    run, model, _ = watched(tmp_path, Gan())
    assert run.steps == (0, 1, 2, 3)
    norms = run.by_layer("log10_grad_norm")
    assert [10.0**value for value in norms["made"]] == pytest.approx(model.norms["made"], rel=1e-4)
    judged = [sum(10.0 ** (2 * norms[f"judge.{at}"][step]) for at in (0, 2)) ** 0.5 for step in range(4)]
    assert judged == pytest.approx(model.norms["judge"], rel=1e-4)


def test_a_loop_that_optimizes_by_hand_can_be_checked_before_each_of_its_steps(tmp_path: Path) -> None:
    reports: list[Any] = []

    class Asks(lightning.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            reports.append(next(each for each in trainer.callbacks if hasattr(each, "diagnose")).diagnose())

    watched(tmp_path, Gan(), also=(Asks(),), limit_train_batches=1)
    assert [{layer.name for layer in each.layers} for each in reports] == [{"made"}, {"judge.0", "judge.2"}]


def test_the_training_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    class Checked(lightning.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            for each in trainer.callbacks:
                if hasattr(each, "diagnose"):
                    each.diagnose()

    _, seen, _ = watched(tmp_path, also=(Checked(),), gradient_clip_val=0.1, accumulate_grad_batches=2, max_epochs=2)
    alone = Net()
    lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=2,
        enable_model_summary=False, gradient_clip_val=0.1, accumulate_grad_batches=2,
    ).fit(alone, data())  # fmt: skip
    for one, other in zip(seen.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_hook_can_ask_for_a_full_check_of_the_batch(tmp_path: Path) -> None:
    reports: list[Any] = []

    class Asks(lightning.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            watch = next(each for each in trainer.callbacks if hasattr(each, "diagnose"))
            reports.append(watch.diagnose())
            x, y = next(iter(data()))
            reports.append(unvanish.diagnose(pl_module.net, x, y, F.cross_entropy))

    run, _, _ = watched(tmp_path, Net(depth=12), also=(Asks(),), limit_train_batches=1)
    of_watch, of_check = reports
    assert of_watch.verdict == of_check.verdict == "vanished"
    assert [layer.log10_signal for layer in of_watch.layers] == pytest.approx(
        [layer.log10_signal for layer in of_check.layers], abs=1e-4
    )
    assert run.full_report() == of_watch
    assert run.by_layer("log10_signal")["net.0"][0] == pytest.approx(of_check.layers[0].log10_signal, abs=1e-4)


def test_a_training_that_goes_on_from_a_checkpoint_goes_on_in_its_file(tmp_path: Path) -> None:
    saved = lightning.callbacks.ModelCheckpoint(
        dirpath=tmp_path, every_n_train_steps=4, filename="{step}", save_top_k=-1
    )
    first, _, _ = watched(tmp_path / "runs", also=(saved,), max_epochs=2, enable_checkpointing=True)
    assert first.steps == tuple(range(8)) and first.facts["steps"] == 8
    again, _, callback = watched(tmp_path / "runs", max_epochs=3, resume=tmp_path / "step=4.ckpt")
    assert again.path == first.path and len(list((tmp_path / "runs").glob("*.unvanish"))) == 1
    assert again.steps == tuple(range(12)) and again.facts["resumed"] == [4] and again.facts["steps"] == 12
    straight, _, other = watched(tmp_path / "runs", max_epochs=3)
    assert again.whole("loss") == pytest.approx(straight.whole("loss"), rel=1e-5)
    assert again.by_layer("log10_grad_norm")["net.0"] == pytest.approx(
        straight.by_layer("log10_grad_norm")["net.0"], abs=1e-4
    )
    before, straight_on = callback.run.judging.history.baselines, other.run.judging.history.baselines
    assert before.keys() == straight_on.keys() and all(len(each) == 1 for each in before.values() if each)


def test_the_numbers_go_to_the_loggers_of_the_trainer(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path / "csv")
    watched(tmp_path / "runs", logger=logger, watch={"log_to": "trainer"})
    text = (Path(logger.log_dir) / "metrics.csv").read_text()
    assert "unvanish/min_signal_log10" in text.splitlines()[0] and len(text.splitlines()) >= 5


def test_a_callback_is_copied_and_pickled_by_its_name() -> None:
    from unvanish.integrations.lightning import Watch

    callback: Any = Watch(every=7, to="elsewhere/")
    assert isinstance(callback, lightning.Callback) and callback.state_key == "Watch"
    for other in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert type(other) is Watch and other.every == 7
