"""Two processes that train one model: the numbers are those of one process on the whole batch, and nobody waits."""

from __future__ import annotations

import json
import math
import os
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import ProcessExitedException, spawn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import unvanish

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="gloo with spawned processes"),
]
STEPS = 5
SIZES = ("log10_signal", "log10_grad_norm", "log10_weight_norm")
WHOLE = ("loss", "total_log10_grad_norm", "log10_grad_norm_clipped")


class Waiting(nn.Module):
    """A forward in which the processes wait for each other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(0)
        distributed.all_reduce(mean)
        return self.layer(x - mean / 2)


class Broken(nn.Module):
    """The root of negative numbers, where the batch says so."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sqrt(x) if x[0, 0] > 0.99999 else x


class BrokenBack(nn.Module):
    """The root of zeros, whose slope is infinite, where the batch says so."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sqrt(x * 0.0) if x[0, 0] > 0.99999 else x


def network(*, broken: type[nn.Module] | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [nn.Tanh()] if broken is None else [nn.Tanh(), broken()]
    return nn.Sequential(nn.Linear(6, 17), *middle, nn.Linear(17, 16), nn.ReLU(), nn.Linear(16, 3))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(32, 6, generator=generator)
    return x, x[:, :3].argmax(1)


def part(step: int, rank: int | None) -> tuple[Tensor, Tensor]:
    x, y = batch(step)
    return (x, y) if rank is None else (x.chunk(2)[rank], y.chunk(2)[rank])


def trained(
    net: nn.Module, rank: int | None, to: Path | None, *, watch: Any = None, parts: int = 1, clip: float = 0.0,
    every: int = 1, each_step: Callable[[int, Any], None] = lambda step, run: None,
    change: Callable[[int, Tensor], Tensor] = lambda step, x: x,
) -> tuple[list[float], Any]:  # fmt: skip
    """The losses of a few steps, in one process (``rank`` is None) or in one of two, and the watch."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    run = None if to is None else unvanish.watch(watch or net, optimizer, every=every, to=to)
    losses: list[float] = []
    with run or nullcontext():
        for step in range(STEPS):
            x, y = part(step, rank)
            x = change(step, x)
            optimizer.zero_grad()
            for at, (a, b) in enumerate(zip(x.chunk(parts), y.chunk(parts), strict=True)):
                wait = net.no_sync() if isinstance(net, DistributedDataParallel) and at < parts - 1 else nullcontext()
                with wait:
                    loss = F.cross_entropy(net(a), b) / parts
                    loss.backward()
            losses.append(loss.item())
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
            each_step(step, run)
    return losses, run


def sharded(*, broken: type[nn.Module] | None = None) -> nn.Module:
    net = network(broken=broken)
    for layer in net:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(net)
    return net


def facts(run: Any) -> dict[str, Any]:
    return {
        "failed": run.watcher.failed,
        "notes": run.watcher.notes,
        "findings": [(each.code, each.message) for each in run.findings],
    }


def fail_at(wanted: int) -> Callable[[int, Any], None]:
    """From this step on the watch of this process fails, before it has summed anything."""

    def each_step(step: int, run: Any) -> None:
        if step == wanted:

            def raises(samples: int) -> Any:
                raise RuntimeError("planted")

            run.watcher.signals.take = raises

    return each_step


def close_at(wanted: int) -> Callable[[int, Any], None]:
    return lambda step, run: run.close() if step == wanted else None


def nothing_special(step: int, run: Any) -> None:
    """The ordinary case."""


def noise_by_hand(rank: int) -> list[float]:
    """McCandlish et al., appendix A.1, from the gradients of both halves of the first batch."""
    net, found = network(), []
    for half in (0, 1):
        net.zero_grad()
        x, y = part(0, half)
        F.cross_entropy(net(x), y).backward()
        found.append(torch.cat([p.grad.double().flatten() for p in net.parameters() if p.grad is not None]))
    del rank
    small, mean = sum(float(g @ g) for g in found) / 2, (found[0] + found[1]) / 2
    big = float(mean @ mean)
    return [(small - big) / (1 / 16 - 1 / 32), (32 * big - 16 * small) / (32 - 16)]


def worker(rank: int, folder: str, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    to, found = Path(folder), {}
    sums, original = [0], distributed.all_reduce

    def counted(*args: Any, **kwargs: Any) -> Any:
        sums[0] += 1
        return original(*args, **kwargs)

    def ddp(**more: Any) -> Any:
        return DistributedDataParallel(network(**more))

    def scenario(name: str, net: nn.Module, **more: Any) -> None:
        distributed.all_reduce, sums[0] = counted, 0
        try:
            losses, run = trained(net, rank, to / f"{name}.unvanish", **more)
        finally:
            distributed.all_reduce = original
        found[name] = {"losses": losses, "sums": sums[0], **({} if run is None else facts(run))}

    plain, _ = trained(ddp(), rank, None)
    found["plain"] = {"losses": plain}
    scenario("ddp", ddp())
    scenario("thinner", ddp(), every=2)
    scenario("accumulated", ddp(), parts=2, clip=0.05)
    net = ddp()
    scenario("inner", net, watch=net.module)
    scenario("fsdp", sharded(), clip=0.05)
    one, _ = trained(ddp(), rank, to / "one.unvanish" if rank == 0 else None)
    found["one"] = {"losses": one}
    one, _ = trained(sharded(), rank, to / "one-sharded.unvanish" if rank == 0 else None)
    found["one-sharded"] = {"losses": one}
    scenario("fails", ddp(), each_step=fail_at(1) if rank == 1 else nothing_special)
    scenario("fails-between", ddp(), every=2, each_step=fail_at(1) if rank == 1 else nothing_special)
    scenario("closes", ddp(), each_step=close_at(1) if rank == 1 else nothing_special)
    scenario("closes-first", sharded(), every=2, each_step=close_at(0) if rank == 0 else nothing_special)

    def bad_data(step: int, x: Tensor) -> Tensor:
        return x * math.inf if rank == 1 and step == 3 else x

    def large(step: int, x: Tensor) -> Tensor:
        return x * 1e3 if rank == 1 and step == 3 else x

    for name, change in (("data", bad_data), ("forward", large)):
        scenario(f"nan-{name}", ddp(broken=Broken if name == "forward" else None), change=change, every=10)
    scenario("nan-fsdp", sharded(), change=bad_data, every=10)
    scenario("nan-fsdp-forward", sharded(broken=Broken), change=large, every=10)
    scenario("nan-fsdp-backward", sharded(broken=BrokenBack), change=large, every=10)
    torch.manual_seed(0)
    waiting = Waiting()
    scenario("nan-waiting", DistributedDataParallel(waiting), change=lambda step, x: x * 1e38 if step == 3 else x)
    alone = network()
    scenario("alone", alone)
    (to / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        spawn(worker, (str(found), port), nprocs=2)
    except ProcessExitedException as error:
        # now and then torch's own threads bring a process down at its very end, a training without us just as well
        if error.signal_name != "SIGABRT" or not all((found / f"{rank}.json").exists() for rank in (0, 1)):
            raise
    return found


@pytest.fixture(scope="module")
def both(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("ddp", {}),
        ("thinner", {"every": 2}),
        ("accumulated", {"parts": 2, "clip": 0.05}),
        ("inner", {}),
        ("fsdp", {"clip": 0.05}),
    ],
)
def test_the_numbers_are_those_of_one_process_on_the_whole_batch(
    name: str, more: dict[str, Any], folder: Path, both: list[dict[str, Any]], tmp_path: Path
) -> None:
    trained(network(), None, tmp_path / "one.unvanish", **more)
    one, two = unvanish.load_run(tmp_path / "one.unvanish"), unvanish.load_run(folder / f"{name}.unvanish")
    assert [rank[name]["failed"] for rank in both] == ["", ""]
    assert two.steps == one.steps and two.layers == one.layers == ("0", "2", "4")
    shares = () if name == "accumulated" else ("saturated_fraction",)  # there the least of a process's parts counts
    for field in (*SIZES, "update_to_weight_ratio", *shares):
        mine, theirs = one.by_layer(field), two.by_layer(field)
        for layer in one.layers:
            assert theirs[layer] == pytest.approx(mine[layer], abs=2e-6, rel=1e-6, nan_ok=True), (field, layer)
    for field in WHOLE:
        if name != "accumulated" or field != "loss":  # there the loss is that of the last part
            assert two.whole(field) == pytest.approx(one.whole(field), abs=1e-6), field
    assert two.report().flow.setting.batch_size == 32
    assert both[0][name]["sums"] == len(one.steps)  # one all-reduce a sample
    assert any("2 processes train: signals, norms and the loss are of all" in note for note in both[0][name]["notes"])


def test_the_noise_is_that_of_the_two_halves(folder: Path) -> None:
    noise, gradient = noise_by_hand(0)
    found = unvanish.load_run(folder / "ddp.unvanish").whole("gradient_noise_scale")
    assert found[0] == pytest.approx(noise / gradient, rel=1e-3)
    accumulated = unvanish.load_run(folder / "accumulated.unvanish").whole("gradient_noise_scale")
    assert accumulated[0] == pytest.approx(noise / gradient, rel=1e-3)  # clipping comes later
    assert all(math.isnan(each) for each in unvanish.load_run(folder / "fsdp.unvanish").whole("gradient_noise_scale"))


def test_the_training_is_the_one_that_nobody_watches(both: list[dict[str, Any]]) -> None:
    for rank in both:
        for name in ("ddp", "thinner", "inner", "one", "fails", "fails-between", "closes"):
            assert rank[name]["losses"] == rank["plain"]["losses"], name


def test_where_only_one_watches_nobody_waits_and_the_numbers_are_its_own(folder: Path) -> None:
    run = unvanish.load_run(folder / "one.unvanish")
    assert "not every process watches" in run.facts["notes"][0]
    assert len(run.steps) == STEPS and math.isfinite(run.whole("loss")[0])
    parts = unvanish.load_run(folder / "one-sharded.unvanish")
    assert all(math.isnan(each) for values in parts.by_layer("log10_grad_norm").values() for each in values)
    assert any("a part of a norm is no norm" in note for note in parts.facts["notes"])


@pytest.mark.parametrize(("name", "since"), [("fails", 2), ("fails-between", 2), ("closes", 2)])
def test_one_that_stops_watching_tells_the_others_and_none_waits(
    name: str, since: int, folder: Path, both: list[dict[str, Any]]
) -> None:
    run = unvanish.load_run(folder / f"{name}.unvanish")
    assert run.steps == tuple(range(0, STEPS, 2 if name == "fails-between" else 1))
    assert both[0][name]["failed"] == "" and ("planted" in both[1][name]["failed"]) == (name != "closes")
    assert f"since step {since} the numbers are of this process alone" in run.facts["notes"][0]
    assert len(both[0][name]["losses"]) == len(both[1][name]["losses"]) == STEPS
    assert both[0][name]["sums"] == both[1][name]["sums"] == (3 if name != "fails-between" else 2)


def test_the_writer_may_leave_first(folder: Path, both: list[dict[str, Any]]) -> None:
    assert unvanish.load_run(folder / "closes-first.unvanish").steps == (0,)
    assert both[0]["closes-first"]["sums"] == both[1]["closes-first"]["sums"] == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nan-data", "at step 3: the batch holds numbers that are not finite"),
        ("nan-forward", "sqrt"),
        ("nan-fsdp", "at step 3: the batch holds numbers that are not finite"),
        ("nan-fsdp-forward", "has left: sqrt, after layer 0 "),
        ("nan-fsdp-backward", "on the way back in sqrt, whose slope can be infinite, between layer 0 and layer 3 "),
    ],
)
def test_a_number_that_breaks_in_another_process_is_named_there(
    name: str, words: str, both: list[dict[str, Any]]
) -> None:
    found = both[0][name]["findings"]
    assert len(found) == 1 and words in found[0][1] and "(in process 1)" in found[0][1], found
    assert both[0][name]["failed"] == both[1][name]["failed"] == ""


def test_a_repetition_calls_no_collective(both: list[dict[str, Any]]) -> None:
    found = both[0]["nan-waiting"]["findings"]
    assert found and "wait for processes that are not running it" in found[0][1], found


def test_models_that_train_each_alone_are_said_to(folder: Path, both: list[dict[str, Any]]) -> None:
    assert both[0]["alone"]["sums"] == 0
    assert "neither in DistributedDataParallel nor sharded" in both[0]["alone"]["notes"][0]
    assert unvanish.load_run(folder / "alone.unvanish").whole("loss")[0] == both[0]["alone"]["losses"][0]


def test_only_the_first_process_writes(folder: Path) -> None:
    assert {each.suffix for each in folder.iterdir()} == {".unvanish", ".json"}
    assert len(list(folder.glob("nan-data*"))) == 1
