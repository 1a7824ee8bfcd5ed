"""More models of packages: graphs, spikes, flows, Gaussian processes, recurrences, equations, games, quantised ones."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from strangers_models import decay_residual, draw, heat_residual, points, stranger
from torch import Tensor, nn

EDGES = torch.randint(0, 40, (2, 160), generator=torch.Generator().manual_seed(5))
NODES = torch.arange(40) % 3


def tanh_net(inputs: int, outputs: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, outputs))


class Run(nn.Module):
    """A module whose forward is a function of it."""

    def __init__(self, run: Any, **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any) -> Any:
        return self.run(self, *args)


def graph(kind: str, **options: Any) -> Any:
    from torch_geometric.nn import models

    model = getattr(models, kind)(8, 16, num_layers=2, out_channels=3, **options)
    return model, (draw(40, 8), EDGES), NODES, F.cross_entropy


@stranger("torch_geometric")
def geometric_gcn() -> Any:
    return graph("GCN")


@stranger("torch_geometric")
def geometric_gat() -> Any:
    return graph("GAT")


@stranger("torch_geometric")
def geometric_sage() -> Any:
    return graph("GraphSAGE")


@stranger("torch_geometric")
def geometric_gin() -> Any:
    return graph("GIN")


def spiking(learn_beta: bool) -> Any:
    import snntorch as snn

    def run(m: Any, x: Tensor) -> Tensor:
        one, two, total = m.a.init_leaky(), m.b.init_leaky(), 0.0
        for _ in range(10):
            spikes, one = m.a(m.first(x), one)
            _, two = m.b(m.second(spikes), two)
            total = total + two
        return total / 10.0

    parts = {"a": snn.Leaky(beta=0.9, learn_beta=learn_beta), "b": snn.Leaky(beta=0.9, reset_mechanism="none")}
    model = Run(run, first=nn.Linear(8, 64), second=nn.Linear(64, 3), **parts)
    return model, 2.0 * draw(32, 8), torch.arange(32) % 3, F.cross_entropy


@stranger("snntorch")
def snntorch_leaky() -> Any:
    return spiking(False)


@stranger("snntorch")
def snntorch_learned_decay() -> Any:
    return spiking(True)


def likelihood(model: nn.Module) -> Any:
    x = draw(64, 2)
    x = torch.stack([x[:, 0], x[:, 1] * 0.3 + x[:, 0] ** 2], 1)
    return model, (x,), torch.zeros(1), lambda o, _: o


@stranger("nflows")
def nflows_maf() -> Any:
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow
    from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform
    from nflows.transforms.base import CompositeTransform

    flow = Flow(CompositeTransform([MaskedAffineAutoregressiveTransform(2, 16) for _ in range(3)]), StandardNormal([2]))
    return likelihood(Run(lambda m, x: -m.flow.log_prob(x).mean(), flow=flow))


@stranger("normflows")
def normflows_realnvp() -> Any:
    import normflows as nf

    steps: list[Any] = []
    for _ in range(4):
        steps += [nf.flows.AffineCouplingBlock(nf.nets.MLP([1, 16, 16, 2], init_zeros=True)), nf.flows.Permute(2)]
    flow = nf.NormalizingFlow(nf.distributions.base.DiagGaussian(2), steps)
    return likelihood(Run(lambda m, x: m.flow.forward_kld(x), flow=flow))


@stranger("zuko")
def zuko_maf() -> Any:
    import zuko

    model = zuko.flows.MAF(features=1, context=4, transforms=2, hidden_features=(16, 16))
    x, y = points()
    return Run(lambda m, c: m.flow(c), flow=model), (x,), y, lambda d, t: -d.log_prob(t).mean()


@stranger("zuko")
def zuko_spline() -> Any:
    import zuko

    model = zuko.flows.NSF(features=1, context=4, transforms=2, hidden_features=(16, 16))
    x, y = points()
    return Run(lambda m, c: m.flow(c), flow=model), (x,), y, lambda d, t: -d.log_prob(t).mean()


@stranger("torchdiffeq")
def torchdiffeq_ode() -> Any:
    from torchdiffeq import odeint

    def run(m: Any, x: Tensor) -> Tensor:
        ends = torch.tensor([0.0, 1.0], dtype=x.dtype)
        return m.last(odeint(lambda t, h: m.field(h), m.first(x), ends, method="rk4")[-1])

    x, y = points()
    return Run(run, first=nn.Linear(4, 8), field=tanh_net(8, 8), last=nn.Linear(8, 1)), (x,), y, F.mse_loss


@stranger("gpytorch")
def gpytorch_exact() -> Any:
    import gpytorch

    x, y = points(32)

    class Process(gpytorch.models.ExactGP):
        def __init__(self) -> None:
            super().__init__(x, y[:, 0], gpytorch.likelihoods.GaussianLikelihood())
            self.mean = gpytorch.means.ConstantMean()
            self.kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, x: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean(x), self.kernel(x))

    model = Process()
    score = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    return model, (x,), y[:, 0], lambda d, t: -score(d, t)


@stranger("e3nn")
def e3nn_linear() -> Any:
    from e3nn import o3

    def run(m: Any, x: Tensor) -> Tensor:
        return m.head(torch.relu(m.second(torch.tanh(m.first(x)))[:, :8]))

    model = Run(run, first=o3.Linear("4x0e", "16x0e"), second=o3.Linear("16x0e", "8x0e"), head=nn.Linear(8, 1))
    x, y = points()
    return model, (x,), y, F.mse_loss


@stranger("pytorch-lightning")
def lightning_module() -> Any:
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = tanh_net(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, index: int) -> Tensor:
            return F.mse_loss(self(batch[0]), batch[1])

    x, y = points()
    return Module(), x, y, F.mse_loss


@stranger("efficientnet-pytorch")
def efficientnet() -> Any:
    from efficientnet_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-b0", num_classes=3, image_size=32, drop_connect_rate=0.0)
    return model, draw(8, 3, 32, 32), torch.arange(8) % 3, F.cross_entropy


def recurrent(kind: type[nn.Module], length: int) -> Any:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.head(m.cells(x)[0][:, -1])

    x = draw(32, length, 3)
    return Run(run, cells=kind(3, 16, batch_first=True), head=nn.Linear(16, 1)), (x,), x[:, -1, :1], F.mse_loss


@stranger("torch")
def torch_lstm() -> Any:
    return recurrent(nn.LSTM, 12)


@stranger("torch")
def torch_gru() -> Any:
    return recurrent(nn.GRU, 12)


@stranger("torch")
def torch_transformer() -> Any:
    model = nn.Transformer(16, 2, 2, 2, 32, dropout=0.0, batch_first=True)
    x = draw(8, 6, 16)
    return model, (x, x), x.flip(1), F.mse_loss


@stranger("torch")
def pinn_decay() -> Any:
    model = Run(lambda m, t: decay_residual(m.net, t), net=tanh_net(1))
    return model, (torch.linspace(0, 1, 64)[:, None],), torch.zeros(1), lambda r, _: r.pow(2).mean()


@stranger("torch")
def pinn_heat() -> Any:
    model = Run(lambda m, x: heat_residual(m.net, x), net=tanh_net(2))
    x = torch.rand(128, 2, generator=torch.Generator().manual_seed(3))
    return model, (x,), torch.zeros(1), lambda r, _: r.pow(2).mean()


@stranger("torch")
def q_learning() -> Any:
    """A deep Q-network and its target network, which runs without gradients."""

    def run(m: Any, x: Tensor) -> Any:
        with torch.no_grad():
            best = m.target(x.flip(0)).amax(1)
        return m.online(x)[:, 0], 0.9 * best + 1.0

    model = Run(run, online=tanh_net(4, 3), target=tanh_net(4, 3))
    return model, (draw(64, 4),), torch.zeros(1), lambda o, _: F.smooth_l1_loss(o[0], o[1])


@stranger("torch")
def actor_critic() -> Any:
    def run(m: Any, x: Tensor) -> Any:
        h = torch.tanh(m.trunk(x))
        return m.actor(h), m.critic(h)[:, 0]

    def loss(outputs: Any, targets: Any) -> Tensor:
        chosen = F.log_softmax(outputs[0], -1)[torch.arange(64), targets[0]]
        return -(chosen * (targets[1] - outputs[1]).detach()).mean() + (targets[1] - outputs[1]).pow(2).mean()

    x = draw(64, 4)
    model = Run(run, trunk=nn.Linear(4, 32), actor=nn.Linear(32, 3), critic=nn.Linear(32, 1))
    return model, (x,), (torch.arange(64) % 3, x[:, 0] * 2.0), loss


@stranger("torch")
def game_judge() -> Any:
    """The judge of an adversarial pair in its own step, with samples of the other player detached."""

    def run(m: Any, z: Tensor, real: Tensor) -> Any:
        return m.judge(real), m.judge(m.maker(z).detach())

    def loss(o: Any, _: Any) -> Tensor:
        return F.softplus(-o[0]).mean() + F.softplus(o[1]).mean()

    model = Run(run, judge=tanh_net(2), maker=tanh_net(4, 2).requires_grad_(False))
    return model, (draw(64, 4), draw(64, 2, seed=1) + 2.0), torch.zeros(1), loss


@stranger("torch")
def quantised_aware() -> Any:
    """Fake-quantised weights and activations with a straight-through gradient, as training for int8 has them."""

    def quantised(x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, float(x.detach().abs().max()) / 127 + 1e-8, 0, -128, 127)

    def run(m: Any, x: Tensor) -> Tensor:
        h = torch.relu(F.linear(quantised(x), quantised(m.first.weight), m.first.bias))
        return F.linear(quantised(h), quantised(m.second.weight), m.second.bias)

    x, y = points()
    return Run(run, first=nn.Linear(4, 32), second=nn.Linear(32, 1)), (x,), y, F.mse_loss


@stranger("torch")
def vector_quantised() -> Any:
    """A vector-quantised autoencoder: straight-through gradient, codebook and commitment losses."""

    def run(m: Any, x: Tensor) -> Any:
        z = m.encoder(x)
        code = m.codes.weight[torch.cdist(z, m.codes.weight).argmin(1)]
        return m.decoder(z + (code - z).detach()), z, code

    def loss(o: Any, x: Tensor) -> Tensor:
        return F.mse_loss(o[0], x) + F.mse_loss(o[2], o[1].detach()) + 0.25 * F.mse_loss(o[1], o[2].detach())

    x = draw(64, 8)
    return Run(run, encoder=tanh_net(8, 4), codes=nn.Embedding(32, 4), decoder=tanh_net(4, 8)), (x,), x, loss


@stranger("torch", truth="UV101", how="thirty sigmoids in a row: Glorot and Bengio 2010, and the loss does not fall")
def sigmoid_chain() -> Any:
    layers = [part for _ in range(30) for part in (nn.Linear(16, 16), nn.Sigmoid())]
    x, y = points()
    return nn.Sequential(nn.Linear(4, 16), *layers, nn.Linear(16, 1)), x, y / math.sqrt(2.0), F.mse_loss
