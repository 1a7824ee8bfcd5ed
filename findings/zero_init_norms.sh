#!/usr/bin/env bash
# Weight normalisation and spectral normalisation of a layer that begins at zero make every output NaN, from the first
# forward pass on; the eps of spectral_norm does not help.
#
# Expected: a last layer of zeros, as residual branches and adapters often end in, gives zeros with either of them: the norm it
# is divided by is kept away from 0, as in torch.nn.functional.normalize, and spectral_norm takes an eps "for numerical
# stability in calculating norms".
# Found (torch 2.13.0, CPU): all outputs are NaN without an error or a warning. That eps keeps the two vectors of the power
# iteration finite; the weight itself is then divided by the plain sigma, which is 0. weight_norm divides by the plain norm.
#
# Output:
#   normalize       [0.0, 0.0, 0.0]
#   weight_norm     [nan, nan, nan]
#   spectral_norm   [nan, nan, nan]
#   with eps = 0.1  [nan, nan, nan]
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/case.py" <<'PYTHON'
import sys

import torch
from torch.nn.utils.parametrizations import spectral_norm, weight_norm


def outputs(wrap):
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 3)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    return wrap(layer)(torch.randn(1, 4))[0].tolist()


found = {
    "normalize": torch.nn.functional.normalize(torch.zeros(1, 3))[0].tolist(),
    "weight_norm": outputs(weight_norm),
    "spectral_norm": outputs(spectral_norm),
    "with eps = 0.1": outputs(lambda layer: spectral_norm(layer, eps=0.1)),
}
for name, values in found.items():
    print(f"{name:15} {values}")
good = found.pop("normalize")
sys.exit(0 if good == [0.0] * 3 and all(str(v) == "nan" for values in found.values() for v in values) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/case.py"
