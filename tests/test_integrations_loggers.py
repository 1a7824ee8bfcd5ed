"""Numbers and findings in TensorBoard, W&B and MLflow, read back with what each of them keeps."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import unvanish
from unvanish import UnvanishError
from unvanish.watching.loggers import FLOOR, MLflow, loggers_of
from unvanish.watching.sample import SERIES, Column, Sample
from unvanish.watching.tags import TAGS, accepted, of_the_layers, of_the_step

pytestmark = pytest.mark.filterwarnings("ignore")


class Block(nn.Module):
    """Its name in a model is one that loggers refuse, and it runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return torch.sigmoid(self.inner(torch.sigmoid(self.inner(x))))


def train(steps: int = 3, depth: int = 12, every: int = 1, **watch: Any) -> Any:
    """A net that has vanished; one of its layers has a gradient of exactly zero."""
    torch.manual_seed(0)
    net = nn.Sequential()
    for at in range(depth):
        net.add_module(f"block[{at}]#|", Block())
    net.add_module("last", nn.Linear(4, 2))
    net.add_module("off", nn.Linear(2, 2))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=every, **watch) as run:
        for _ in range(steps):
            x = torch.randn(16, 4)
            optimizer.zero_grad()
            out = net[:-1](x)
            (nn.functional.cross_entropy(out, x[:, :2].argmax(1)) + 0.0 * net[-1](out).sum()).backward()
            optimizer.step()
    assert not run.watcher.failed
    return run


class Kept:
    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.rows.append((step, metrics))


def test_anything_with_log_gets_about_ten_numbers_a_sample(tmp_path: Path) -> None:
    kept = Kept()
    run = train(4, every=2, to=tmp_path / "r.unvanish", log_to=kept)
    assert [step for step, _ in kept.rows] == [0, 2]
    for _, metrics in kept.rows:
        assert set(metrics) == {f"unvanish/{tag}" for tag in TAGS} - {"unvanish/loss_scale"}
        assert len(metrics) <= 13 and all(math.isfinite(value) for value in metrics.values())
    metrics, saved = kept.rows[0][1], unvanish.load_run(run.path)
    signals = [values[0] for values in saved.by_layer("log10_signal").values() if math.isfinite(values[0])]
    assert metrics["unvanish/min_signal_log10"] == pytest.approx(min(signals), abs=1e-5)
    assert metrics["unvanish/loss"] == pytest.approx(saved.whole("loss")[0])
    assert metrics["unvanish/zero_layers"] == 1.0 and metrics["unvanish/findings"] >= 1.0
    assert not any("layers/" in name for name in metrics)


def test_what_was_not_measured_is_left_out_and_infinities_are_counted() -> None:
    nothing = of_the_step(Sample(0), 0)
    assert nothing == {"unvanish/zero_layers": 0.0, "unvanish/nonfinite_layers": 0.0, "unvanish/findings": 0.0}
    row = (-math.inf, -math.inf, 0.0, 0.0, math.nan, math.nan, math.nan)
    broken = (math.nan, math.inf, 0.0, 1e-3, 0.25, 0.0, math.nan)
    series = dict.fromkeys(SERIES, math.nan) | {"log10_grad_norm": -math.inf}
    found = of_the_step(Sample(0, {0: row, 1: broken}, series), 2)
    assert found == {
        "unvanish/grad_norm_log10": -math.inf, "unvanish/min_update_log10": -3.0, "unvanish/zero_layers": 1.0,
        "unvanish/nonfinite_layers": 1.0, "unvanish/findings": 2.0, "unvanish/max_saturated_fraction": 0.25,
        "unvanish/max_dead_fraction": 0.0,
    }  # fmt: skip
    columns = [Column("a#2", "Linear", 1), Column("a|2", "Linear", 1)]
    assert of_the_layers(Sample(0, {0: row, 1: broken}), columns, ("log10_signal", "update_to_weight_ratio")) == {
        "unvanish/layers/a_2/log10_signal": -math.inf,
        "unvanish/layers/a_2/log10_update_to_weight_ratio": -math.inf,
        "unvanish/layers/a_2-2/log10_update_to_weight_ratio": -3.0,
    }


def test_two_layers_never_get_one_name() -> None:
    names = ["a#2", "a|2", "a_2", "", "/lead", "ü.weiß", "a_2-2"]
    made = accepted(names)
    assert len(set(made)) == len(names) and all(name and set(name) <= set(_ALLOWED) for name in made)
    assert accepted(["layer1.0.conv", "head"]) == ["layer1.0.conv", "head"]


_ALLOWED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"


def test_tensorboard_is_read_back_by_its_own_reader(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter  # pyright: ignore[reportPrivateImportUsage]

    writer = SummaryWriter(tmp_path / "tb")
    run = train(to=tmp_path / "r.unvanish", log_to=writer, log_layers=("log10_signal", "log10_grad_norm"))
    read = EventAccumulator(str(tmp_path / "tb"))  # close() of the run has flushed it
    read.Reload()
    saved = unvanish.load_run(run.path)
    scalars = read.Scalars("unvanish/min_signal_log10")
    assert [(each.step) for each in scalars] == [0, 1, 2]
    signal = saved.by_layer("log10_signal")["block[0]#|.inner"]
    shown = read.Scalars("unvanish/layers/block_0___.inner/log10_signal")
    assert [each.value for each in shown] == pytest.approx(signal, abs=1e-5)
    assert [each.value for each in read.Scalars("unvanish/layers/off/log10_grad_norm")] == [-math.inf] * 3
    (text,) = [event.tensor_proto.string_val[0].decode() for event in read.Tensors("unvanish/findings/text_summary")][
        :1
    ]
    assert text.startswith("UV101 error: since step 0")
    writer.close()


WANDB = """
import json, sys
sys.path.insert(0, {tests!r})
import wandb
from test_integrations_loggers import train
run = wandb.init(project="p", dir=".", mode="offline", settings=wandb.Settings(silent=True, console="off"))
train(to="r.unvanish", log_to={target}, log_layers="log10_signal")
run.log({{"mine": 1.0}})
run.finish()
wandb.teardown()  # a short run is written out only now, or some seconds after finish()
"""


def wandb_records(path: Path) -> list[Any]:
    """The records of an offline run: a log in blocks of 32 KiB, each part with checksum, length and kind."""
    from wandb.proto import wandb_internal_pb2

    kind: Any = vars(wandb_internal_pb2)["Record"]

    data, at, parts, found = path.read_bytes(), 7, b"", []
    while at < len(data):
        left = 32_768 - at % 32_768
        if left < 7:
            at += left
            continue
        length = int.from_bytes(data[at + 4 : at + 6], "little")
        parts += data[at + 7 : at + 7 + length]
        if data[at + 6] in (1, 4):  # whole, or the last part
            record = kind()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
        at += 7 + length
    return found


@pytest.mark.parametrize("target", ["run", "wandb"])
def test_wandb_offline_holds_rows_with_a_step_of_their_own_and_an_alert(target: str, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="W&B is not installed: pip install wandb")
    program = WANDB.format(tests=str(Path(__file__).parent), target=target)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = wandb_records(path)
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    ours = [row for row in rows if "unvanish/step" in row]
    assert [row["unvanish/step"] for row in ours] == [0, 1, 2]
    saved = unvanish.load_run(tmp_path / "r.unvanish")
    assert [row["unvanish/loss"] for row in ours] == pytest.approx(saved.whole("loss"))
    signal = saved.by_layer("log10_signal")["block[0]#|.inner"]
    assert [row["unvanish/layers/block_0___.inner/log10_signal"] for row in ours] == pytest.approx(signal, abs=1e-5)
    assert ours[0]["unvanish/layers/off/log10_signal"] == -math.inf
    assert any(row.get("mine") == 1.0 for row in rows)  # what the user logs is not lost
    metrics = {record.metric.glob_name: record.metric.step_metric for record in records if record.HasField("metric")}
    assert metrics["unvanish/*"] == "unvanish/step"
    (alert,) = [record.alert for record in records if record.HasField("alert")][:1]
    assert alert.title == "unvanish UV101" and alert.level == "ERROR" and "since step 0" in alert.text


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_experiment("tests")
    yield mlflow
    while mlflow.active_run():
        mlflow.end_run()
    logging.getLogger("alembic").setLevel(logging.WARNING)


def test_mlflow_has_every_number_in_the_run_that_was_active(tmp_path: Path, mlflow: Any) -> None:
    with mlflow.start_run() as active:
        run = train(to=tmp_path / "r.unvanish", log_to=mlflow, log_layers=("log10_signal", "log10_grad_norm"))
    client, run_id = mlflow.MlflowClient(), active.info.run_id
    assert len(client.search_runs([active.info.experiment_id])) == 1  # none was begun by another thread
    saved = unvanish.load_run(run.path)

    def history(name: str) -> list[float]:
        found = sorted(client.get_metric_history(run_id, name), key=lambda each: each.step)
        assert [each.step for each in found] == [0, 1, 2]
        return [each.value for each in found]

    assert history("unvanish/loss") == pytest.approx(saved.whole("loss"))
    signal = saved.by_layer("log10_signal")["block[0]#|.inner"]
    assert history("unvanish/layers/block_0___.inner/log10_signal") == pytest.approx(signal, abs=1e-5)
    assert history("unvanish/layers/off/log10_grad_norm") == [-FLOOR] * 3
    assert history("unvanish/zero_layers") == [1.0] * 3
    assert client.get_run(run_id).data.tags["unvanish.UV101"].startswith("UV101 error: since step 0")


class Slow:
    """What a logger needs of mlflow, with a database that takes its time, or fails."""

    def __init__(self, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.seconds, self.error, self.batches = seconds, error, []
        self.__name__ = "mlflow"

        class Metric:
            def __init__(self, key: str, value: float, timestamp: int, step: int) -> None:
                self.key, self.value, self.step = key, value, step

        self.entities = type("entities", (), {"Metric": Metric})

    def active_run(self) -> Any:
        return type("run", (), {"info": type("info", (), {"run_id": "1"})})

    def MlflowClient(self) -> Any:  # noqa: N802
        return self

    def log_batch(self, run_id: str, metrics: Any) -> None:
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        self.batches.append(metrics)

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        pass


def test_a_slow_database_holds_up_no_step_and_loses_nothing() -> None:
    slow = Slow(0.05)
    logger = MLflow(slow)
    before = time.thread_time()
    for step in range(400):
        logger.log({f"m{k}": 1.0 for k in range(5)}, step)
    assert time.thread_time() - before < 10.0  # it was put aside, not sent: 400 calls of 50 ms would be 20 s
    assert len(slow.batches) < 400
    logger.close()
    sent = [metric for batch in slow.batches for metric in batch]
    assert [metric.step for metric in sent] == [step for step in range(400) for _ in range(5)]
    assert max(map(len, slow.batches)) <= 1_000 and logger.thread is None


def test_a_logger_that_fails_is_left_out_with_one_message_and_the_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails:
        def log(self, metrics: Any, step: int) -> None:
            raise OSError("disk full")

    kept = Kept()
    run = train(3, to=tmp_path / "r.unvanish", log_to=[Fails(), Slow(error=OSError("locked")), kept])
    assert len(kept.rows) == 3 and unvanish.load_run(run.path).steps == (0, 1, 2)
    said = [record.getMessage() for record in caplog.records if "no more is logged" in record.getMessage()]
    assert sorted(said) == [
        "no more is logged to Anything: OSError: disk full", "no more is logged to MLflow: OSError: locked",
    ]  # fmt: skip


def test_what_takes_no_numbers_is_refused_before_a_file_is_made(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"log_to": 3}, r"log_to\) holds a int"),
        ({"log_layers": ("log10_signal", "loss")}, "does not know 'loss'"),
        ({"log_to": _module("mlflow", active_run=lambda: None)}, "needs an active run"),
        ({"log_to": _module("wandb", run=None)}, "needs a run; call wandb.init"),
    )
    for wrong, words in refused:
        with pytest.raises(UnvanishError, match=words):
            unvanish.watch(net, optimizer, to=tmp_path / "r.unvanish", **wrong)
    assert os.listdir(tmp_path) == []
    assert loggers_of(None) == []


def _module(name: str, **members: Any) -> Any:
    return type(name, (), {"__name__": name, **members})
