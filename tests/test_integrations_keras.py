"""The callback for Keras 3 on torch, with the real package: in programs of their own, for a backend is chosen once."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("keras") is None:
    pytest.skip("Keras is not installed: pip install keras", allow_module_level=True)

PROGRAM = """
import json, math, sys, warnings
warnings.simplefilter("ignore")
import keras, numpy as np, torch
import unvanish
from unvanish.integrations.keras import Watch

x = np.random.RandomState(0).randn(64, 6).astype("float32")
y = x[:, :3].argmax(1)

def made(optimizer, policy="float32", depth=1):
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(16, activation="sigmoid", name=f"hidden{k}") for k in range(depth)]
    norm = [] if depth > 1 else [keras.layers.BatchNormalization(name="norm")]
    model = keras.Sequential([*hidden, *norm, keras.layers.Dense(3, name="last")])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model

def fit(model, callbacks=(), epochs=1, **more):
    return model.fit(x, y, batch_size=16, epochs=epochs, verbose=0, shuffle=False, callbacks=list(callbacks), **more)

def numbers(run):
    return {"steps": run.steps, "layers": run.layers, "loss": run.whole("loss"), "lr": run.whole("learning_rate"),
            "norm": [10**v for v in run.whole("total_log10_grad_norm")], "scale": run.whole("loss_scale"),
            "clipped": [10**v for v in run.whole("log10_grad_norm_clipped")],
            "layer_norms": {k: [10**v for v in vs] for k, vs in run.by_layer("log10_grad_norm").items()},
            "signals": run.by_layer("log10_signal"), "moves": run.by_layer("update_to_weight_ratio")}
"""


def ran(folder: Path, program: str, backend: str = "torch", ok: bool = True) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program], cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "KERAS_BACKEND": backend},
    )  # fmt: skip
    assert (done.returncode == 0) is ok, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) if ok else done.stderr


def test_plain_accumulated_clipped_and_scaled_trainings_have_the_gradients_of_autograd(tmp_path: Path) -> None:
    found = ran(tmp_path, """
cases = {"plain": {}, "accumulated": {"gradient_accumulation_steps": 2}, "clipped": {"global_clipnorm": 0.05}}
out = {}
for name, more in cases.items():
    for policy in ("float32", "mixed_float16"):
        watch = Watch(every=1, to=f"{name}-{policy}.unvanish")
        fit(made(keras.optimizers.SGD(0.1, **more), policy), [watch])
        assert not watch.run.watcher.failed, watch.run.watcher.failed
        out[f"{name}-{policy}"] = numbers(unvanish.load_run(watch.run.path))

# The same by hand: Keras's own layers and loss, torch's own gradients.
model = made(keras.optimizers.SGD(0.1))
model.build((None, 6))
loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
def gradients(part):
    model.zero_grad()
    loss = loss_of(torch.tensor(y[part]), model(x[part], training=True))
    loss.backward()
    return float(loss), [v.value.grad.clone() for v in model.trainable_variables]
norm = lambda grads: math.sqrt(sum(float(g.double().square().sum()) for g in grads))
first, one = gradients(slice(0, 16))
second, two = gradients(slice(16, 32))
out["hand"] = {"loss": first, "norm": norm(one), "mean loss": (first + second) / 2,
               "mean norm": norm([(a + b) / 2 for a, b in zip(one, two)]), "kernel": norm(one[:2])}
print(json.dumps(out))
""")  # fmt: skip
    hand = found["hand"]
    for policy, close in (("float32", 1e-4), ("mixed_float16", 2e-2)):
        plain, parts, clipped = (found[f"{name}-{policy}"] for name in ("plain", "accumulated", "clipped"))
        assert plain["layers"] == ["hidden0", "norm", "last"]
        assert plain["steps"] == [0, 1, 2, 3] and parts["steps"] == [0, 1]
        assert plain["loss"][0] == pytest.approx(hand["loss"], rel=close)
        assert plain["norm"][0] == pytest.approx(hand["norm"], rel=close)
        assert plain["clipped"] == pytest.approx(plain["norm"])
        assert plain["layer_norms"]["hidden0"][0] == pytest.approx(hand["kernel"], rel=close)
        assert parts["loss"][0] == pytest.approx(hand["mean loss"], rel=close)
        assert parts["norm"][0] == pytest.approx(hand["mean norm"], rel=close)
        assert clipped["norm"][0] == pytest.approx(hand["norm"], rel=close)
        assert clipped["clipped"] == pytest.approx([0.05] * 4, rel=1e-3)
        assert plain["lr"][0] == pytest.approx(0.1)
        assert all(0.0 < move < 1.0 for move in plain["moves"]["hidden0"])
        assert plain["signals"]["last"] == pytest.approx(found["plain-float32"]["signals"]["last"], abs=0.01)
    assert found["plain-mixed_float16"]["scale"][0] == 32768.0


def test_the_training_is_the_same_and_nothing_of_ours_stays_behind(tmp_path: Path) -> None:
    found = ran(tmp_path, """
def weights(watch):
    model = made(keras.optimizers.Adam(0.01, gradient_accumulation_steps=2, clipnorm=0.1))
    fit(model, watch, epochs=2, validation_data=(x, y))
    return model, [w.tolist() for w in model.get_weights()]
asked = []
watch = Watch(every=1, to="r.unvanish", check_every=2)
watch.diagnose_next(asked.append)
ours, theirs = weights([watch]), weights([])
layers = list(ours[0]._flatten_layers())
print(json.dumps({"same": ours[1] == theirs[1], "verdict": asked[0].verdict,
    "hooks": sum(len(l._forward_hooks) + len(l._forward_pre_hooks) for l in layers),
    "apply": "apply" in vars(ours[0].optimizer)}))
""")  # fmt: skip
    assert found == {"same": True, "verdict": found["verdict"], "hooks": 0, "apply": False}


def test_a_deep_sigmoid_net_has_vanished_live_and_in_the_full_check_of_a_batch(tmp_path: Path) -> None:
    found = ran(tmp_path, """
asked = []
watch = Watch(every=1, to="r.unvanish")
watch.diagnose_next(asked.append)
fit(made(keras.optimizers.SGD(0.1), depth=12), [watch])
run = unvanish.load_run("r.unvanish")
setting = run.report().setting
print(json.dumps({"codes": [f.code for f in run.findings], "verdict": asked[0].verdict,
    "said": [setting.model, setting.optimizer, asked[0].setting.model],
    "layers": [l.name for l in asked[0].layers]}))
""")  # fmt: skip
    assert "UV101" in found["codes"] and found["verdict"] == "vanished"
    assert found["said"] == ["Sequential", "SGD", "Sequential"]
    assert found["layers"] == [*(f"hidden{k}" for k in range(12)), "last"]


def test_a_saved_model_goes_on_in_the_file_of_its_run(tmp_path: Path) -> None:
    found = ran(tmp_path, """
model = made(keras.optimizers.SGD(0.1, momentum=0.9))
fit(model, [Watch(every=1, to="r.unvanish")])
model.save("m.keras")
fit(keras.models.load_model("m.keras"), [Watch(every=1, to="r.unvanish")])
fit(made(keras.optimizers.SGD(0.1, momentum=0.9)), [Watch(every=1, to="whole.unvanish")], epochs=2)
parted, whole = unvanish.load_run("r.unvanish"), unvanish.load_run("whole.unvanish")
print(json.dumps({"steps": parted.steps, "resumed": parted.facts["resumed"], "parted": parted.whole("loss"),
    "whole": whole.whole("loss")}))
""")  # fmt: skip
    assert found["steps"] == list(range(8)) and found["resumed"] == [4]
    assert found["parted"] == pytest.approx(found["whole"], rel=1e-4)


def test_another_backend_is_refused_with_what_to_set(tmp_path: Path) -> None:
    import unvanish
    from unvanish.integrations.keras import Hooks

    hooks: Any = Hooks()
    hooks.model = None

    class Keras:
        class backend:  # noqa: N801
            backend = staticmethod(lambda: "jax")

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "keras", Keras)
        with pytest.raises(unvanish.UnvanishError, match="runs on jax here; unvanish watches torch: set KERAS_BACKEND"):
            hooks.on_train_begin()


def test_a_fit_that_was_interrupted_is_over_when_the_next_begins(tmp_path: Path) -> None:
    found = ran(tmp_path, """
import os, signal
class Interrupts(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            os.kill(os.getpid(), signal.SIGINT)
model = made(keras.optimizers.SGD(0.1))
try:
    fit(model, [Watch(every=1, to="a.unvanish"), Interrupts()])
except KeyboardInterrupt:
    pass
fit(model, [Watch(every=1, to="b.unvanish")])
a, b = unvanish.load_run("a.unvanish"), unvanish.load_run("b.unvanish")
print(json.dumps({"a": a.steps, "b": b.steps, "why": a.facts["why"], "apply": "apply" in vars(model.optimizer)}))
""")  # fmt: skip
    assert found == {"a": [0, 1, 2], "b": [0, 1, 2, 3], "why": "another training has begun", "apply": False}
