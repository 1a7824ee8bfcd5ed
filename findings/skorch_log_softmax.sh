#!/usr/bin/env bash
# A classifier that ends in log_softmax, as NLLLoss wants it, unlearns in skorch, whose default loss is NLLLoss.
#
# Expected: NeuralNetClassifier, whose criterion is torch.nn.NLLLoss, hands the module's outputs to it; so the module ends in
# LogSoftmax, as the documentation of NLLLoss says, and a Softmax there would be the fault.
# Found (skorch 1.4.0, torch 2.13.0, CPU): where the criterion is an NLLLoss, NeuralNetClassifier takes the logarithm of the
# outputs itself. Of log probabilities that is the logarithm of negative numbers: the loss is NaN in every epoch. Its gradient is
# not, as that of a logarithm is 1/x for negative x too, but it points away from the labels. Nothing is raised or warned of, and
# fit ends as usual, with a classifier worse than chance. A module that ends in Softmax learns.
#
# Output (two classes that a plane separates; the loss of five epochs, and the share of samples told right):
#   LogSoftmax  loss nan nan nan nan nan  right: fewer than half
#   Softmax     loss falls, all finite    right: more than half
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 skorch==1.4.0 numpy
cat > "$folder/case.py" <<'PYTHON'
import math
import sys
import warnings

import numpy
import torch
from skorch import NeuralNetClassifier

warnings.simplefilter("error")  # whatever is warned of would end this
samples = numpy.random.default_rng(0).normal(size=(200, 4)).astype("float32")
labels = (samples[:, 0] > 0).astype("int64")


def trained(last):
    """The loss of each epoch, and the share of samples told right."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2), last)
    net = NeuralNetClassifier(module, max_epochs=5, lr=0.1, verbose=0, train_split=None)
    net.fit(samples, labels)
    return [float(loss) for loss in net.history[:, "train_loss"]], float((net.predict(samples) == labels).mean())


logs, wrong = trained(torch.nn.LogSoftmax(-1))
print("LogSoftmax  loss", *logs, " right: fewer than half" if wrong < 0.5 else f" right: {wrong}")
learnt, right = trained(torch.nn.Softmax(-1))
falls = all(map(math.isfinite, learnt)) and learnt[-1] < learnt[0]
print("Softmax     loss falls, all finite   " if falls else f"Softmax     loss {learnt}", end=" ")
print("right: more than half" if right > 0.5 else f"right: {right}")
sys.exit(0 if all(map(math.isnan, logs)) and wrong < 0.5 < right and falls else 1)
PYTHON
"$folder/venv/bin/python" "$folder/case.py"
