#!/usr/bin/env bash
# An infinity cast to float8_e4m3fn becomes 448 in torch 2.13, the largest number of that type, and NaN in ml_dtypes.
#
# Expected: the type has NaN but no infinity, so what overflows becomes NaN, as it did in torch up to 2.11 and does in ml_dtypes,
# the types of JAX: an activation or a gradient that has overflowed is still seen behind the cast.
# Found (torch 2.13.0, ml_dtypes 0.6.0, CPU): torch gives 448 for all from 448 on, infinity included, and -448 on the other side,
# from float32, float64, bfloat16 and float16 alike; only NaN stays NaN. The same cast to float8_e5m2 keeps infinities, and that
# to float8_e4m3fnuz makes NaN of them. A check for numbers that are not finite behind the cast sees nothing; and files of
# weights that torch and JAX write from the same numbers differ.
#
# Output:
#   from                  448.0    464.0    465.0  10000.0      inf     -inf      nan
#   torch     e4m3fn      448.0    448.0    448.0    448.0    448.0   -448.0      nan
#   ml_dtypes e4m3fn      448.0    448.0      nan      nan      nan      nan      nan
#   torch     e5m2        448.0    448.0    448.0  10240.0      inf     -inf      nan
#   ml_dtypes e5m2        448.0    448.0    448.0  10240.0      inf     -inf      nan
#   torch     e4m3fnuz      nan      nan      nan      nan      nan      nan      nan
#   ml_dtypes e4m3fnuz      nan      nan      nan      nan      nan      nan      nan
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 ml_dtypes==0.6.0 numpy
cat > "$folder/case.py" <<'PYTHON'
import sys

import ml_dtypes
import numpy
import torch

INF, NAN = float("inf"), float("nan")
VALUES = [448.0, 464.0, 465.0, 1e4, INF, -INF, NAN]
TORCH = {"e4m3fn": [448.0] * 5 + [-448.0, NAN], "e5m2": [448.0] * 3 + [10240.0, INF, -INF, NAN], "e4m3fnuz": [NAN] * 7}
OTHERS = {**TORCH, "e4m3fn": [448.0] * 2 + [NAN] * 5}


def by_torch(kind, source):
    return torch.tensor(VALUES, dtype=source).to(getattr(torch, f"float8_{kind}")).float().tolist()


def by_ml_dtypes(kind):
    return numpy.array(VALUES, numpy.float32).astype(getattr(ml_dtypes, f"float8_{kind}")).astype(numpy.float32).tolist()


same = True
print(f"{'from':18}" + "".join(f"{value:>9}" for value in VALUES))
for kind in TORCH:
    rows = {"torch": by_torch(kind, torch.float32), "ml_dtypes": by_ml_dtypes(kind)}
    for library, row in rows.items():
        print(f"{library:9} {kind:8}" + "".join(f"{value:>9}" for value in row))
    same &= repr(rows["torch"]) == repr(TORCH[kind]) and repr(rows["ml_dtypes"]) == repr(OTHERS[kind])
for source in (torch.float64, torch.bfloat16, torch.float16):
    same &= repr(by_torch("e4m3fn", source)[-3:]) == repr(TORCH["e4m3fn"][-3:])
sys.exit(not same)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/case.py"
