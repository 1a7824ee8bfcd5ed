#!/usr/bin/env bash
# gpytorch: the exact marginal likelihood of more than 800 points is a random number, and so is its gradient.
#
# Expected: "ExactMarginalLogLikelihood" of an ExactGP gives the same loss and the same gradient whenever it is evaluated
# at the same parameters on the same points: a difference means that training has moved something.
# Found (gpytorch 1.15.2, torch 2.13.0, CPU): with 800 points two evaluations agree to the last bit. From 801 points on the
# log determinant is estimated with ten random vectors and the solves stop early: losses scatter by 0.2% and
# gradients by 2% from call to call, with the state of torch's generator. Two runs of one seed, one of which drew a random number
# more, part ways at the first step, and a limit on "no progress" below that spread never sees any. With
# gpytorch.settings.fast_computations(log_prob=False), or a larger max_cholesky_size, the calls agree again.
#
# Output (of 20 evaluations each; the last digits differ between machines):
#   800 points                    loss 0.8282  spread 0.0e+00   gradient 0.0928  spread 0.0e+00
#   801 points                    loss 0.8272  spread 2.4e-03   gradient 0.0929  spread 2.4e-02
#   801 points, exact log_prob    loss 0.8279  spread 0.0e+00   gradient 0.0924  spread 0.0e+00
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 gpytorch==1.15.2 numpy
cat > "$folder/case.py" <<'PYTHON'
import contextlib
import statistics
import sys

import gpytorch
import torch


class Process(gpytorch.models.ExactGP):
    def __init__(self, points, values, likelihood):
        super().__init__(points, values, likelihood)
        self.mean = gpytorch.means.ConstantMean()
        self.kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

    def forward(self, points):
        return gpytorch.distributions.MultivariateNormal(self.mean(points), self.kernel(points))


def spreads(count, setting):
    """Mean and relative spread of the loss, and of the gradient of the length scale, over 20 evaluations."""
    torch.manual_seed(0)
    points = torch.linspace(0, 1, count)
    values = torch.sin(6 * points) + 0.1 * torch.randn(count)
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    model = Process(points, values, likelihood)
    likelihood_of = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    length, seen = model.kernel.base_kernel.raw_lengthscale, []
    for _ in range(20):
        model.zero_grad()
        with setting:
            loss = -likelihood_of(model(points), values)
            loss.backward()
        seen.append((loss.item(), length.grad.item()))
    return [(statistics.mean(each), statistics.pstdev(each) / abs(statistics.mean(each))) for each in zip(*seen)]


exact = gpytorch.settings.fast_computations(log_prob=False)
rows = {
    "800 points": spreads(800, contextlib.nullcontext()),
    "801 points": spreads(801, contextlib.nullcontext()),
    "801 points, exact log_prob": spreads(801, exact),
}
for name, ((loss, loss_spread), (slope, slope_spread)) in rows.items():
    print(f"{name:29} loss {loss:.4f}  spread {loss_spread:.1e}   gradient {slope:.4f}  spread {slope_spread:.1e}")
same, other, again = (max(spread for _, spread in each) for each in rows.values())
sys.exit(not (same == 0.0 and other > 1e-3 and again == 0.0))
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/case.py"
