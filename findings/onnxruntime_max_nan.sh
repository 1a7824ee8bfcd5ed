#!/usr/bin/env bash
# ONNX Runtime's MaxPool and ReduceMax pass over a NaN that PyTorch hands on.
#
# Expected: a network exported to ONNX gives NaN where it gives NaN in PyTorch, so a NaN in a feature map is still seen at the
# outputs.
# Found (onnxruntime 1.32.0, CPU): a window of MaxPool that holds a NaN beside numbers gives the greatest of the numbers, and
# one of nothing but NaN the lowest float32, -3.4e38. ReduceMax and ReduceMin pass over a NaN too, and ArgMax gives the place
# of a number. Relu hands NaN on. So a network with such a layer can answer as if nothing were wrong.
#
# Output:
#   MaxPool: PyTorch [2.0, nan, nan] ONNX Runtime [2.0, 3.0, -3.4028234663852886e+38]
#   ReduceMax: PyTorch nan ONNX Runtime 5.0
#   ReduceMin: PyTorch nan ONNX Runtime 1.0
#   ArgMax: PyTorch 2 ONNX Runtime 4
#   Relu: PyTorch [1.0, 2.0, nan, 3.0, nan, nan] ONNX Runtime [1.0, 2.0, nan, 3.0, nan, nan]
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxruntime==1.32.0 numpy
cat > "$folder/case.py" <<'PYTHON'
import sys

import numpy
import onnxruntime
import torch
from onnx import TensorProto, helper

NAN = float("nan")


def through(operator, values, kind=TensorProto.FLOAT, **attributes):
    """What ONNX Runtime makes of `values` with a model of one operator."""
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(values.shape))]
    graph = helper.make_graph([node], "one", inputs, [helper.make_tensor_value_info("y", kind, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(numpy.atleast_1d(session.run(None, {"x": values.numpy()})[0]))


pooled = torch.tensor([1.0, 2.0, NAN, 3.0, NAN, NAN])
row = torch.tensor([[1.0, 3.0, NAN, 2.0, 5.0, 4.0]])
seen = {
    "MaxPool": (
        torch.nn.functional.max_pool1d(pooled[None, None], 2),
        through("MaxPool", pooled[None, None], kernel_shape=[2], strides=[2]),
        [2.0, 3.0, torch.finfo(torch.float32).min],
    ),
    "ReduceMax": (row.amax(), through("ReduceMax", row, keepdims=0), [5.0]),
    "ReduceMin": (row.amin(), through("ReduceMin", row, keepdims=0), [1.0]),
    "ArgMax": (row.argmax(), through("ArgMax", row, TensorProto.INT64, axis=1, keepdims=0), [4]),
    "Relu": (pooled.relu(), through("Relu", pooled), pooled.tolist()),
}
same = True
for name, (ours, theirs, expected) in seen.items():
    shown = [tensor.flatten().tolist() for tensor in (ours, theirs)]
    print(name + ":", *(f"{who} {x[0] if len(x) == 1 else x}" for who, x in zip(("PyTorch", "ONNX Runtime"), shown, strict=True)))
    same &= str(shown[1]) == str(expected)
sys.exit(not same)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/case.py"
