#!/usr/bin/env bash
# torchmetrics: one NaN among the probabilities of a batch makes positives of all the others, however small they are.
#
# Expected: a sample whose probability is NaN is counted as wrong, or makes the metric NaN; the other samples of its batch count
# as they did.
# Found (torchmetrics 1.9.0, torch 2.13.0, CPU): where a value lies outside 0 to 1, all of the batch are taken for logits, as
# documented, and get a sigmoid. NaN lies outside, too, and the sigmoid of a probability is 0.5 or more: each sample of the
# batch becomes a positive, but for the NaN itself. A perfect classifier falls to the share of positives, its recall stays at
# 1, and no metric is NaN. Other batches are as they were, so the figure of an epoch depends on how it was cut into batches. With
# several labels, a NaN in one of them hits the others. Logits with a NaN, and probabilities without, are counted as expected.
#
# Output: metrics of a perfect classifier of 100 samples, ten of them positives, with NaN for one of the negatives:
#                             accuracy   precision  recall     F1
#   no NaN                    1.00       1.00       1.00       1.00
#   NaN, one batch of 100     0.11       0.10       1.00       0.18
#   NaN, ten batches of 10    0.92       0.56       1.00       0.71
#   NaN among logits          1.00       1.00       1.00       1.00
#   NaN replaced by 0         1.00       1.00       1.00       1.00
#   accuracies of three labels, NaN in the third: 0.10 0.10 0.11
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchmetrics==1.9.0 numpy
cat > "$folder/case.py" <<'PYTHON'
import sys

import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score, BinaryPrecision, BinaryRecall, MultilabelAccuracy

METRICS = {"accuracy": BinaryAccuracy, "precision": BinaryPrecision, "recall": BinaryRecall, "F1": BinaryF1Score}
wanted = (torch.arange(100) % 10 == 0).int()
clean = torch.where(wanted == 1, 0.9, 0.2)
broken = clean.clone()
broken[55] = float("nan")


def measured(given, size):
    metrics = MetricCollection({name: metric() for name, metric in METRICS.items()})
    for values, targets in zip(given.split(size), wanted.split(size), strict=True):
        metrics.update(values, targets)
    return [round(float(value), 2) for value in (metrics.compute()[name] for name in METRICS)]


CASES = {
    "no NaN": (clean, 100, [1.0, 1.0, 1.0, 1.0]),
    "NaN, one batch of 100": (broken, 100, [0.11, 0.1, 1.0, 0.18]),
    "NaN, ten batches of 10": (broken, 10, [0.92, 0.56, 1.0, 0.71]),
    "NaN among logits": (broken.logit(), 100, [1.0, 1.0, 1.0, 1.0]),
    "NaN replaced by 0": (broken.nan_to_num(), 100, [1.0, 1.0, 1.0, 1.0]),
}
same = True
print(f"{'':26}" + "".join(f"{name:11}" for name in METRICS).rstrip())
for name, (given, size, expected) in CASES.items():
    seen = measured(given, size)
    print(f"{name:26}" + "".join(f"{value:<11.2f}" for value in seen).rstrip())
    same &= seen == expected
each = MultilabelAccuracy(3, average=None)(torch.stack([clean, clean, broken], 1), torch.stack([wanted] * 3, 1))
labels = [round(float(value), 2) for value in each]
print("accuracies of three labels, NaN in the third:", *(f"{value:.2f}" for value in labels))
sys.exit(not (same and labels == [0.1, 0.1, 0.11]))
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/case.py"
