#!/usr/bin/env bash
# torch's SummaryWriter: double_precision=True keeps single precision; where it does keep double, TensorBoard shows no curve.
#
# Expected: add_scalar(tag, 1e-46, double_precision=True) is read back as 1e-46, and 1e39 as 1e39. Without the option a float32
# may be written, where the one is 0 and the other infinite: a gradient that has vanished, but is there, reads as none.
# Found (torch 2.13.0, tensorboard 2.21.0): the option alone changes nothing, as the number is written to a field of the file's
# format that is a float32. It needs new_style=True beside it. Then the file holds float64 and TensorBoard's own Python reader
# gives it back, but the page as started by "tensorboard --logdir" lists no such scalar: the loader it takes by itself passes
# over float64 without a word. "--load_fast=false" shows it. The same numbers with new_style=True alone are shown, as float32.
#
# Output: the options, what EventAccumulator reads, and what the page is given by either loader, for 1e-30, 1e-46, 1e39:
#   add_scalar(...)                          in the file               page, as started          page, load_fast=false
#   (none)                                   1e-30  0  inf             1e-30  0  inf             1e-30  0  inf
#   double_precision                         1e-30  0  inf             1e-30  0  inf             1e-30  0  inf
#   new_style                                1e-30  0  inf             1e-30  0  inf             1e-30  0  inf
#   double_precision, new_style              1e-30  1e-46  1e+39       no such scalar            1e-30  1e-46  1e+39
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy tensorboard==2.21.0 setuptools==80.9.0
cat > "$folder/case.py" <<'PYTHON'
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter

norms = [1e-30, 1e-46, 1e39]
options = {"none": (), "double": ("double_precision",), "new": ("new_style",), "both": ("double_precision", "new_style")}
for run, names in options.items():
    with SummaryWriter(f"runs/{run}") as writer:
        for step, norm in enumerate(norms):
            writer.add_scalar("norm", norm, step, **dict.fromkeys(names, True))


def in_the_file(run):
    events = EventAccumulator(f"runs/{run}").Reload()
    if "norm" in events.Tags()["scalars"]:
        return [event.value for event in events.Scalars("norm")]
    return [tensor_util.make_ndarray(event.tensor_proto).item() for event in events.Tensors("norm")]


def asked(address):
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.load(answer)


def on_the_page(*started_with):
    """What the page is given for each run; None: it is told of no such scalar."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "runs", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen([*command, *started_with], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    base, deadline = f"http://127.0.0.1:{port}/data", time.monotonic() + 90
    try:
        while True:
            try:
                if set(asked(f"{base}/runs")) == set(options) and "none" in asked(f"{base}/plugin/scalars/tags"):
                    break
            except (urllib.error.URLError, OSError):
                pass
            if time.monotonic() > deadline:
                sys.exit("TensorBoard did not answer")
            time.sleep(0.5)
        time.sleep(5)  # so that what is read last is there, too
        tags = asked(f"{base}/plugin/scalars/tags")
        shown = {run: asked(f"{base}/plugin/scalars/scalars?run={run}&tag=norm") for run in options if run in tags}
        return {run: [float(point[2]) for point in points] for run, points in shown.items()}
    finally:
        server.terminate()
        server.wait()


def told(numbers):
    return "no such scalar" if numbers is None else "  ".join(f"{number:.3g}" for number in numbers)


as_started, slow = on_the_page(), on_the_page("--load_fast=false")
print(f"{'add_scalar(...)':40} {'in the file':25} {'page, as started':25} page, load_fast=false")
found = {}
for run, names in options.items():
    found[run] = [told(n) for n in (in_the_file(run), as_started.get(run), slow.get(run))]
    print(f"{', '.join(names) or '(none)':40} {found[run][0]:25} {found[run][1]:25} {found[run][2]}")
single, double = "1e-30  0  inf", "1e-30  1e-46  1e+39"
expected = {run: [single] * 3 for run in ("none", "double", "new")} | {"both": [double, "no such scalar", double]}
sys.exit(found != expected)
PYTHON
cd "$folder" && venv/bin/python case.py
