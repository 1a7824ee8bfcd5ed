"""Reports made by hand, so that what is written about them is known without measuring anything."""

from __future__ import annotations

import math
from importlib.resources import files

from unvanish.records import CallFlow, Evidence, Finding, Flow, LayerFlow, LossFacts, Setting
from unvanish.report import Report

WEIGHTS, SLOPES = math.log10(0.44), math.log10(0.25)
STEP = WEIGHTS + SLOPES  # one step back multiplies by 0.11
SETTING = Setting(
    model="Sequential", parameters=83_210, batch_size=64, dtype="float32", device="cpu", mode="train", effort="auto",
    seed=0, optimizer="SGD",
)  # fmt: skip
LOSS = LossFacts(value=0.6931, reference=0.6931, relative_gap=1.0)


def flow(*layers: LayerFlow, **more: object) -> Flow:
    return Flow(setting=SETTING, layers=layers, loss=LOSS).replace(**more)


def layer(name: str, signal: float | None, **more: object) -> LayerFlow:
    made = LayerFlow(
        name=name, kind="Linear", source="net.py:12", parameters=4160, log10_signal=signal, verdict="healthy"
    )
    return made.replace(**more)


def shipped_schema() -> str:
    """The text of the schema file that comes with the package."""
    return files("unvanish.report").joinpath("report.schema.json").read_text(encoding="utf-8")


def vanishing(depth: int) -> Report:
    """Sigmoid layers; each step back multiplies the signal by 0.44 (weights) times 0.25 (slopes) = 0.11."""
    layers = []
    for place in range(depth):
        signal = STEP * (depth - 1 - place)
        gains = {"log10_gain": STEP, "log10_weight_gain": WEIGHTS, "log10_slope_gain": SLOPES, "before": f"fc{place}"}
        verdict = "vanished" if signal < -2.5 else "healthy"
        layers.append(layer(f"fc{place + 1}", signal, verdict=verdict, **(gains if place else {})))
    lost = tuple(each.name for each in layers if each.verdict == "vanished")
    finding = Finding(
        code="UV101",
        verdict="vanished",
        level="error",
        layers=lost,
        cause="slopes",
        message=f"{lost[0]} to {lost[-1]} hardly learn: the error signal shrinks at every step back. It starts at 1.",
        evidence=(
            Evidence(name="log10_transmission", value=STEP * (depth - 1), relation="<", threshold=-2.5),
            Evidence(name="log10 gain of the slopes", value=SLOPES * (depth - 1), error=0.01),
        ),
        remedies=("centred-init", "batchnorm"),
    )
    questions = (("whether the loss is flat", "the loss was not tried on other outputs"),)
    return Report.from_flow(flow(*layers, undecided=questions), [finding])


def dead() -> Report:
    """The second of three ReLU layers is off."""
    layers = (
        layer("0", -math.inf, verdict="dead", log10_grad_norm=-math.inf),
        layer("2", -math.inf, verdict="dead", log10_gain=math.nan, before="0"),
        layer("4", -0.4, log10_gain=-math.inf, log10_slope_gain=-math.inf, log10_weight_gain=0.0, before="2"),
    )
    finding = Finding(
        code="UV301", verdict="dead", level="error", layers=("0", "2"), cause="relu in 3",
        message="layers 0, 2 receive exactly no gradient, because relu in 3 passes nothing back.",
        evidence=(Evidence(name="log10_jacobian_norm", value=-math.inf, relation="=", threshold=-math.inf),),
    )  # fmt: skip
    calls = (CallFlow(index=0, name="linear", module="0", source="net.py:12", part="model", role="weights"),)
    return Report.from_flow(flow(*layers, calls=calls), [finding])


def nonfinite() -> Report:
    layers = (layer("body", None, verdict="nonfinite"), layer("head", math.inf, verdict="nonfinite"))
    finding = Finding(code="UV501", verdict="nonfinite", level="error", message="The forward pass is not finite.")
    return Report.from_flow(flow(*layers, loss=None, notes=("the inputs already hold nan",)), [finding])


def healthy() -> Report:
    layers = (layer("fc1", -0.3), layer("fc2", -0.25, log10_gain=-0.05, log10_weight_gain=-0.05, before="fc1"))
    return Report.from_flow(flow(*layers), [])


def hostile() -> Report:
    """Names that would be markup, colours or line breaks if they were interpreted."""
    names = ("[red]x[/red]", "a\nb", "\x1b[31mred\x1b[0m", "right\u202eleft", "größe.层", "x" * 90)
    layers = [layer(name, -float(place), source=f"[b]/{name}.py:1") for place, name in enumerate(names)]
    finding = Finding(
        code="UV101", verdict="vanished", level="error", layers=names, message="[bold]all[/bold] \x1b[2J of them.\r"
    )
    return Report.from_flow(flow(*layers, undecided=(("[i]what[/i]", "\x07why"),), notes=("\x1b[0m",)), [finding])


MADE = {
    "vanishing-20": vanishing(20),
    "vanishing-1000": vanishing(1000),
    "dead": dead(),
    "nonfinite": nonfinite(),
    "healthy": healthy(),
    "hostile": hostile(),
}
