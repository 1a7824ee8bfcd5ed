"""Small networks of every kind, each with a batch and a loss: what the walk must agree with autograd on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from unvanish.problem import Problem

ALL: dict[str, Callable[[], Problem]] = {}


def architecture(make: Callable[[], Problem]) -> Callable[[], Problem]:
    """Register a maker; it draws from torch's generator and leaves the dtype to ``problem``."""
    ALL[make.__name__] = make
    return make


def problem(name: str, seed: int, dtype: torch.dtype = torch.float64) -> Problem:
    """The named problem with weights and batch drawn from ``seed``; the same twice for the same seed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(seed)
        return ALL[name]()
    finally:
        torch.set_default_dtype(before)


class Forward(nn.Module):
    """Modules by name, and a forward given as a function of them and the inputs."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Any) -> Any:
        return self._forward(self, *inputs)


def chain(depth: int, weight: float = 0.17, dtype: torch.dtype = torch.float32) -> Chain:
    """The one-neuron chain h ← σ(w·h)."""
    return Chain(depth, weight, dtype)


class Chain(nn.Module):
    def __init__(self, depth: int, weight: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.w = nn.ParameterList([nn.Parameter(torch.tensor(weight, dtype=dtype)) for _ in range(depth)])

    def forward(self, h: Tensor) -> Tensor:
        for w in self.w:
            h = torch.sigmoid(w * h)
        return h


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets) ** 2).mean()


def images(channels: int = 3, side: int = 8, batch: int = 4) -> Tensor:
    return torch.randn(batch, channels, side, side)


def classes(number: int = 5, batch: int = 4) -> Tensor:
    return torch.randint(number, (batch,))


@architecture
def mlp() -> Problem:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 5))
    return Problem(model, torch.randn(4, 6), classes(), F.cross_entropy)


@architecture
def cnn_batchnorm() -> Problem:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3),
        nn.BatchNorm2d(4), nn.ELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip
    return Problem(model, images(), classes(), F.cross_entropy)


@architecture
def residual() -> Problem:
    blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 9), nn.SiLU(), nn.Linear(9, 6)) for _ in range(5)])

    def forward(m: Any, x: Tensor) -> Tensor:
        for block in m.blocks:
            x = x + block(x)
        return m.head(x)

    return Problem(Forward(forward, blocks=blocks, head=nn.Linear(6, 2)), torch.randn(5, 6), torch.randn(5, 2), squares)


@architecture
def densenet() -> Problem:
    growth = nn.ModuleList([nn.Conv2d(3 + 2 * k, 2, 3, padding=1) for k in range(4)])

    def forward(m: Any, x: Tensor) -> Tensor:
        for conv in m.growth:
            x = torch.cat([x, F.relu(conv(x))], 1)
        return m.head(x.mean((2, 3)))

    return Problem(Forward(forward, growth=growth, head=nn.Linear(11, 5)), images(), classes(), F.cross_entropy)


@architecture
def unet() -> Problem:
    def forward(m: Any, x: Tensor) -> Tensor:
        first = F.relu(m.down1(x))
        second = F.relu(m.down2(F.max_pool2d(first, 2)))
        up = m.up(second)
        wide = F.interpolate(second, scale_factor=2, mode="bilinear")
        return m.out(torch.cat([first, up, wide], 1))

    model = Forward(
        forward, down1=nn.Conv2d(3, 4, 3, padding=1), down2=nn.Conv2d(4, 6, 3, padding=1),
        up=nn.ConvTranspose2d(6, 4, 2, stride=2), out=nn.Conv2d(14, 3, 1),
    )  # fmt: skip
    return Problem(model, images(), images(), squares)


@architecture
def broadcast_joins() -> Problem:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.lin(x)  # 4 × 6
        h = h * m.scale + m.shift  # a scalar and a row
        outer = h.unsqueeze(2) * m.column  # 4 × 6 × 3 from 4 × 6 × 1 and 6 × 1 … 3
        return (outer + h.unsqueeze(2) - h.mean()).expand(2, 4, 6, 3).sum(0)

    model = Forward(
        forward, lin=nn.Linear(5, 6), scale=nn.Parameter(torch.randn(())), shift=nn.Parameter(torch.randn(1, 6)),
        column=nn.Parameter(torch.randn(6, 3)),
    )  # fmt: skip
    return Problem(model, torch.randn(4, 5), torch.randn(4, 6, 3), squares)


@architecture
def tied_weights() -> Problem:
    encoder, decoder = nn.Embedding(7, 6), nn.Linear(6, 7, bias=False)
    decoder.weight = encoder.weight

    def forward(m: Any, tokens: Tensor) -> Tensor:
        return m.decoder(torch.tanh(m.mix(m.encoder(tokens)))).flatten(0, 1)

    model = Forward(forward, encoder=encoder, mix=nn.Linear(6, 6), decoder=decoder)
    return Problem(model, torch.randint(7, (4, 3)), torch.randint(7, (12,)), F.cross_entropy)


def recurrent(kind: Any) -> Problem:
    def forward(m: Any, x: Tensor) -> Tensor:
        sequence, state = m.rnn(x)
        last = state[0] if isinstance(state, tuple) else state
        return m.head(sequence.mean(1) + last[-1].repeat(1, 2))

    rnn = kind(input_size=4, hidden_size=5, num_layers=2, batch_first=True, bidirectional=True)
    return Problem(Forward(forward, rnn=rnn, head=nn.Linear(10, 5)), torch.randn(4, 6, 4), classes(), F.cross_entropy)


@architecture
def lstm() -> Problem:
    return recurrent(nn.LSTM)


@architecture
def gru() -> Problem:
    return recurrent(nn.GRU)


@architecture
def lstm_cells() -> Problem:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = c = x.new_zeros(4, 5)
        for step in x.unbind(1):
            h, c = m.cell(step, (h, c))
        return m.head(h)

    model = Forward(forward, cell=nn.LSTMCell(3, 5), head=nn.Linear(5, 5))
    return Problem(model, torch.randn(4, 7, 3), classes(), F.cross_entropy)


@architecture
def multihead_attention() -> Problem:
    def forward(m: Any, x: Tensor, memory: Tensor) -> Tensor:
        mixed, weights = m.attention(x, memory, memory)
        fast, _ = m.second(mixed, mixed, mixed, need_weights=False)
        return fast + weights.sum(-1, keepdim=True) + weights.amax((1, 2), keepdim=True)

    attention, second = (nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
    inputs = (torch.randn(3, 4, 8), torch.randn(3, 5, 8))
    return Problem(Forward(forward, attention=attention, second=second), inputs, torch.randn(3, 4, 8), squares)


@architecture
def transformer_encoder() -> Problem:
    layers = nn.Sequential(
        nn.TransformerEncoderLayer(8, 2, 12, dropout=0.2, batch_first=True),
        nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True),
    )
    return Problem(layers, torch.randn(3, 5, 8), torch.randn(3, 5, 8), squares)


def embedded(sparse: bool) -> Problem:
    def forward(m: Any, tokens: Tensor) -> Tensor:
        return m.head(torch.tanh(m.words(tokens)).mean(1) + m.bag(tokens))

    parts = {"words": nn.Embedding(9, 6, sparse=sparse), "bag": nn.EmbeddingBag(9, 6, mode="sum", sparse=sparse)}
    model = Forward(forward, head=nn.Linear(6, 5), **parts)
    return Problem(model, torch.randint(6, (4, 5)), classes(), F.cross_entropy)


@architecture
def embeddings() -> Problem:
    return embedded(sparse=False)


@architecture
def sparse_embeddings() -> Problem:
    return embedded(sparse=True)


@architecture
def sparse_embedding_used_twice() -> Problem:
    def forward(m: Any, left: Tensor, right: Tensor) -> Tensor:
        return (m.words(left) * m.words(right)).sum(-1) + (m.words.weight**2).sum()

    inputs = (torch.randint(6, (4,)), torch.randint(6, (4,)))
    return Problem(Forward(forward, words=nn.Embedding(9, 6, sparse=True)), inputs, torch.randn(4), squares)


@architecture
def called_twice() -> Problem:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.head(torch.tanh(m.shared(torch.tanh(m.shared(x)))) + x)

    return Problem(
        Forward(forward, shared=nn.Linear(6, 6), head=nn.Linear(6, 2)), torch.randn(4, 6), torch.randn(4, 2), squares
    )


def checkpointed(reentrant: bool) -> Problem:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        for block in (m.first, m.second):
            x = x + checkpoint(block, x, use_reentrant=reentrant)
        return m.head(x)

    blocks = [nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Dropout(0.3), nn.Linear(7, 6)) for _ in range(2)]
    model = Forward(forward, stem=nn.Linear(5, 6), first=blocks[0], second=blocks[1], head=nn.Linear(6, 2))
    return Problem(model, torch.randn(4, 5), torch.randn(4, 2), squares)


@architecture
def checkpoint_non_reentrant() -> Problem:
    return checkpointed(False)


@architecture
def checkpoint_reentrant() -> Problem:
    return checkpointed(True)


@architecture
def checkpoint_inside_checkpoint() -> Problem:
    def forward(m: Any, x: Tensor) -> Tensor:
        def outer(h: Tensor) -> Tensor:
            return torch.tanh(m.outer(checkpoint(m.inner, h, use_reentrant=False)))

        return checkpoint(outer, m.stem(x), use_reentrant=False)

    inner = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    model = Forward(forward, stem=nn.Linear(5, 6), inner=inner, outer=nn.Linear(6, 2))
    return Problem(model, torch.randn(4, 5), torch.randn(4, 2), squares)


@architecture
def sequential_checkpoints() -> Problem:
    def forward(m: Any, x: Tensor) -> Tensor:
        return checkpoint_sequential(m.layers, 3, m.stem(x), use_reentrant=False)

    layers = nn.Sequential(*[nn.Sequential(nn.Linear(6, 6), nn.Sigmoid()) for _ in range(6)])
    return Problem(Forward(forward, stem=nn.Linear(5, 6), layers=layers), torch.randn(4, 5), torch.randn(4, 6), squares)


class Scale(torch.autograd.Function):
    """Non-tensor arguments, saved tensors, and a name on ctx that autograd's own leaves also have."""

    @staticmethod
    def forward(ctx: Any, factor: float, x: Tensor, mode: str, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.factor, ctx.variable = factor, mode
        return factor * x * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        x, w = ctx.saved_tensors
        return None, ctx.factor * g * w, None, (ctx.factor * g * x).sum(0)


class Several(torch.autograd.Function):
    """Three outputs: one used, one never used, one that has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        index = x.argmax(-1)
        ctx.mark_non_differentiable(index)
        ctx.save_for_backward(x)
        return x.sin(), x.exp(), index

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, sine: Tensor, exponential: Tensor, index: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return sine * x.cos() + exponential * x.exp()


class DoubledInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2.0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return 2.0 * g


class Unmaterialised(torch.autograd.Function):
    """Asks for None where an output got no gradient, as memory-saving functions do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        return x * 3.0, x * 5.0

    @staticmethod
    def backward(ctx: Any, a: Tensor | None, b: Tensor | None) -> Tensor | None:  # type: ignore[override]
        parts = [g * f for g, f in ((a, 3.0), (b, 5.0)) if g is not None]
        return sum(parts[1:], parts[0]) if parts else None


@architecture
def custom_functions() -> Problem:
    def forward(m: Any, x: Tensor) -> Tensor:
        h: Any = Scale.apply(0.7, m.first(x), "mode", m.w)
        sine, _, index = Several.apply(h)  # type: ignore[misc]
        a, _ = Unmaterialised.apply(sine)  # type: ignore[misc]
        h = DoubledInPlace.apply(m.second(a) * 1.0)
        return h + index[:, None]

    model = Forward(forward, first=nn.Linear(5, 6), w=nn.Parameter(torch.randn(6)), second=nn.Linear(6, 2))
    return Problem(model, torch.randn(4, 5), torch.randn(4, 2), squares)


@architecture
def in_place() -> Problem:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = F.relu(m.first(x), inplace=True)
        h = m.second(h).relu_() * 2.0
        h += x
        h = m.third(h)
        h[:, :2] *= 3.0  # on a slice
        h[1:, 2].mul_(0.5).add_(1.0)  # on a view of a view
        h.view(-1)[::5].mul_(2.0)
        return F.leaky_relu_(h, 0.2)

    parts = {"first": nn.Linear(6, 6), "second": nn.Linear(6, 6), "third": nn.Linear(6, 6)}
    return Problem(Forward(forward, **parts), torch.randn(4, 6), torch.randn(4, 6), squares)


@architecture
def weight_norm() -> Problem:
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 7)), nn.Tanh(), parametrizations.weight_norm(nn.Linear(7, 5))
    )
    return Problem(model, torch.randn(4, 6), classes(), F.cross_entropy)


@architecture
def spectral_norm() -> Problem:
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(6, 7)), nn.Tanh(), parametrizations.orthogonal(nn.Linear(7, 5))
    )
    return Problem(model, torch.randn(4, 6), classes(), F.cross_entropy)


@architecture
def grouped_and_transposed_conv() -> Problem:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=4, padding=1, padding_mode="reflect"), nn.Hardswish(),
        nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2, output_padding=1), nn.PReLU(6), nn.GroupNorm(2, 6),
        nn.Conv2d(6, 2, 3, dilation=2, stride=2),
    )  # fmt: skip
    inputs = images(4)
    with torch.no_grad():
        shape = model(inputs).shape
    return Problem(model, inputs, torch.randn(shape), squares)


@architecture
def sorting_and_indexing() -> Problem:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.first(x)
        ranked, order = h.cumsum(1).sort(1)
        top, _ = torch.topk(h, 3, 1)
        picked = torch.gather(h, 1, order) + h.index_put((torch.tensor([0, 2]), torch.tensor([1, 1])), top[0, :2])
        parts = torch.split(picked, [2, 4], 1)
        where = torch.where(ranked > 0, ranked, 0.1 * ranked).masked_fill(h > 1.0, 0.0)
        return where + torch.cat([parts[1], parts[0].flip(1)], 1) + top.logsumexp(1, keepdim=True).clamp(min=0.1)

    return Problem(Forward(forward, first=nn.Linear(5, 6)), torch.randn(4, 5), torch.randn(4, 6), squares)


@architecture
def complex_numbers() -> Problem:
    def forward(m: Any, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(m.first(x)) * m.filter
        back = torch.fft.irfft(spectrum, n=6)
        polar = torch.view_as_real(spectrum * x.sum()).square().sum(-1).sqrt()
        return m.second(back) + spectrum.abs().sum(1, keepdim=True) + polar.mean() + (m.filter * x[0, 0]).real.sum()

    spectral = nn.Parameter(torch.complex(torch.randn(4), torch.randn(4)))
    model = Forward(forward, first=nn.Linear(5, 6), filter=spectral, second=nn.Linear(6, 2))
    return Problem(model, torch.randn(4, 5), torch.randn(4, 2), squares)


@architecture
def several_outputs() -> Problem:
    def forward(m: Any, x: Tensor) -> Any:
        h = torch.tanh(m.trunk(x))
        return {"logits": m.logits(h), "state": (h, m.value(h)), "count": 3}

    def loss(outputs: Any, targets: Any) -> Tensor:
        state, value = outputs["state"]
        return F.cross_entropy(outputs["logits"], targets) + 0.3 * value.pow(2).mean() + 1e-3 * state.abs().sum()

    parts = {"trunk": nn.Linear(6, 8), "logits": nn.Linear(8, 5), "value": nn.Linear(8, 1), "unused": nn.Linear(2, 2)}
    return Problem(Forward(forward, **parts), torch.randn(4, 6), classes(), loss)


@architecture
def mixed_losses() -> Problem:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        total = F.mse_loss(outputs, targets) + F.l1_loss(outputs, targets)
        total = total + F.kl_div(outputs.log_softmax(1), targets.softmax(1), reduction="batchmean")
        return total + F.binary_cross_entropy_with_logits(outputs, targets.sigmoid()) + F.huber_loss(outputs, targets)

    return Problem(
        nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 5)), torch.randn(4, 6), torch.randn(4, 5), loss
    )


@architecture
def norms_and_einsum() -> Problem:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = torch.einsum("btc,cd->btd", m.layer(x), m.w)
        h = m.instance(h.transpose(1, 2)).transpose(1, 2)
        h = F.softmax(h @ h.transpose(1, 2) / 2.0, -1) @ m.rms(h)
        return F.scaled_dot_product_attention(h[:, None], h[:, None], h[:, None], is_causal=True)[:, 0]

    model = Forward(
        forward, layer=nn.LayerNorm(6), w=nn.Parameter(torch.randn(6, 6)), rms=nn.RMSNorm(6),
        instance=nn.InstanceNorm1d(6, affine=True),
    )  # fmt: skip
    return Problem(model, torch.randn(3, 4, 6), torch.randn(3, 4, 6), squares)


@architecture
def gradient_penalty() -> Problem:
    """A loss that differentiates the model itself: second derivatives in the graph."""

    def forward(m: Any, x: Tensor) -> Any:
        x = x.clone().requires_grad_(True)
        score = m.second(torch.tanh(m.first(x)))
        (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
        return score, slope

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        return squares(outputs[0], targets) + (outputs[1].norm(dim=1) - 1.0).pow(2).mean()

    model = Forward(forward, first=nn.Linear(5, 6), second=nn.Linear(6, 1))
    return Problem(model, torch.randn(4, 5), torch.randn(4, 1), loss)


@dataclass
class Result:
    """A model output in the style of a library: a dataclass that holds its own loss."""

    loss: Tensor | None = None
    logits: Tensor | None = None


@architecture
def own_loss_in_a_dataclass() -> Problem:
    def forward(m: Any, x: Tensor) -> Result:
        logits = m.second(F.mish(m.first(x)))
        return Result(F.cross_entropy(logits, torch.arange(4)), logits)

    return Problem(Forward(forward, first=nn.Linear(5, 6), second=nn.Linear(6, 4)), torch.randn(4, 5))


@architecture
def packed_sequences() -> Problem:
    def forward(m: Any, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, torch.tensor([5, 3, 2]), batch_first=True)
        states, _ = pad_packed_sequence(m.rnn(packed)[0], batch_first=True)
        return m.head(states)

    model = Forward(forward, rnn=nn.LSTM(3, 4, batch_first=True), head=nn.Linear(4, 2))
    return Problem(model, torch.randn(3, 5, 3), torch.randn(3, 5, 2), squares)


@architecture
def function_transforms() -> Problem:
    """vmap, a functional call with changed weights, and a derivative taken inside the forward pass."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = torch.vmap(lambda row: torch.tanh(m.w @ row))(m.lin(x))
        h = torch.func.functional_call(m.lin, {n: 2.0 * p for n, p in m.lin.named_parameters()}, (h,))
        return h + torch.func.vmap(torch.func.grad(lambda row: torch.tanh(m.other(row)).sum()))(h)

    model = Forward(forward, w=nn.Parameter(torch.randn(4, 4)), lin=nn.Linear(4, 4), other=nn.Linear(4, 4))
    return Problem(model, torch.randn(3, 4), torch.randn(3, 4), squares)


@architecture
def masks_and_straight_through() -> Problem:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        rounded = h + (h.round() - h).detach()
        y = x.new_zeros(3, 4)
        y[:, :2] = rounded[:, :2]
        y = y + 0.0
        y[x > 0] = m.b(x)[x > 0]
        with torch.no_grad():
            fixed = m.b(x)
        pair = torch._foreach_mul([y.tanh(), h], 2.0)  # type: ignore[attr-defined]
        return (y * 1.5).masked_fill_(x > 1, 0.3) * fixed + torch.stack(list(pair)).sum(0)

    model = Forward(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    return Problem(model, torch.randn(3, 4), torch.randn(3, 4), squares)


@architecture
def linear_algebra() -> Problem:
    def forward(m: Any, x: Tensor) -> Tensor:
        query, key = m.w.chunk(2, 0)
        a = F.linear(x, query) + F.linear(x, key.mT)
        square = a @ a.mT + torch.eye(4)
        logs = torch.linalg.cholesky(square).diagonal().log().sum()
        with torch.autograd.graph.save_on_cpu():
            return torch.linalg.solve(square, a) + torch.linalg.svdvals(a).sum() + logs

    return Problem(Forward(forward, w=nn.Parameter(torch.randn(8, 4))), torch.randn(4, 4), torch.randn(4, 4), squares)


def autocast_mlp() -> Problem:
    """Float32 weights under bfloat16 autocast; one Linear is used twice, so that its cast comes from the cache."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.head(torch.tanh(m.shared(torch.tanh(m.shared(x)))))

    model = Forward(forward, shared=nn.Linear(16, 16), head=nn.Linear(16, 5)).float()
    return Problem(model, torch.randn(8, 16).float(), classes(batch=8), F.cross_entropy, autocast=torch.bfloat16)
