"""Changes of a module tree. Each function here is handed to users by its source: it needs torch and nothing of ours."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn


def put(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """The model with another module at ``path``; the empty path is the model itself."""
    if not path:
        return module
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
    return model


def replace(model: nn.Module, paths: list[str], make: Callable[[], nn.Module]) -> nn.Module:
    """Put a new module at each path."""
    for path in paths:
        model = put(model, path, make())
        parent: Any = model.get_submodule(path.rpartition(".")[0])
        if hasattr(parent, "activation_relu_or_gelu"):  # torch's transformer layer has a fast path for those two
            parent.activation_relu_or_gelu = 0
    return model


def trace(module: nn.Module) -> fx.Graph:
    """The forward of one module as a graph; the modules inside it stay as they are."""

    class Shallow(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    given = inspect.signature(module.forward).parameters.values()
    return Shallow().trace(module, {each.name: None for each in given if each.default is None})


def replace_calls(model: nn.Module, path: str, nodes: list[str], make: Callable[[], nn.Module]) -> nn.Module:
    """Put a new module in place of each named call in the forward of the module at ``path``."""
    owner = model.get_submodule(path)
    graph = trace(owner)
    for number, node in enumerate([each for each in graph.nodes if each.name in nodes]):
        owner.add_module(f"replaced{number}", make())
        with graph.inserting_before(node):
            new = graph.call_module(f"replaced{number}", (node.args[0] if node.args else node.kwargs["input"],))
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    changed = fx.GraphModule(owner, graph, type(owner).__name__).train(owner.training)
    return put(model, path, changed)


def insert_after(model: nn.Module, paths: list[str], make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Follow the layer at each path by a new module, made to its measure."""
    for path in paths:
        layer: Any = model.get_submodule(path)
        new = make(layer).to(layer.weight.device, layer.weight.dtype)
        model = put(model, path, nn.Sequential(layer, new).train(layer.training))
    return model


def initialise(
    model: nn.Module,
    paths: list[str],
    fill: Callable[[Tensor, torch.Generator], Tensor],
    seed: int,
    bias_std: float = 0.0,
) -> nn.Module:
    """Draw the weights of the layers at these paths anew; biases are zero, or normal with the given deviation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path in paths:
            layer: Any = model.get_submodule(path)
            layer.weight.copy_(fill(torch.empty(layer.weight.shape), generator))
            if layer.bias is not None:
                layer.bias.copy_(bias_std * torch.randn(layer.bias.shape, generator=generator))
    return model


def draw_zeros(model: nn.Module, names: list[str], seed: int) -> nn.Module:
    """Draw these parameters from N(0, 1/n), n the size of their last axis."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in names:
            parameter = model.get_parameter(name)
            drawn = torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5
            parameter.copy_(drawn)
    return model


def centred(model: nn.Module, after_sigmoid: list[str], others: list[str], seed: int) -> nn.Module:
    """W = 4 Q and b_i = −½ Σ_j W_ij behind a sigmoid, W = Q and b = 0 elsewhere, with Q random and orthogonal."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path in [*others, *after_sigmoid]:
            layer: Any = model.get_submodule(path)
            weight = nn.init.orthogonal_(torch.empty(layer.weight.shape), generator=generator)
            if path in after_sigmoid:
                weight.mul_(4.0)
            layer.weight.copy_(weight)
            if path in after_sigmoid:
                layer.bias.copy_(-layer.weight.flatten(1).sum(1) / 2.0)
            elif layer.bias is not None:
                layer.bias.zero_()
    return model


def lsuv(model: nn.Module, paths: list[str], run: Callable[[nn.Module], object], seed: int) -> nn.Module:
    """Orthogonal weights, then each layer's weights divided by the deviation of its outputs until that is 1."""
    generator = torch.Generator().manual_seed(seed)
    buffers = [buffer.clone() for buffer in model.buffers()]
    seen: list[torch.Tensor] = []  # a layer may be called more than once in a pass
    for path in paths:
        layer: Any = model.get_submodule(path)
        with torch.no_grad():
            layer.weight.copy_(nn.init.orthogonal_(torch.empty(layer.weight.shape), generator=generator))
            if layer.bias is not None:
                layer.bias.zero_()
    for path in paths:
        layer = model.get_submodule(path)
        hook = layer.register_forward_hook(lambda _, __, y: seen.append(y.detach().float().flatten()))
        for _ in range(5):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                run(model)
            deviation = float(torch.cat(seen).std()) if sum(map(len, seen)) > 1 else 0.0
            seen.clear()
            if not 1e-12 < deviation < math.inf or abs(deviation - 1.0) < 0.05:
                break
            with torch.no_grad():
                layer.weight.div_(deviation)
        hook.remove()
    with torch.no_grad():
        for buffer, was in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(was)
    return model


def open_gates(model: nn.Module, paths: list[str], bias: float) -> nn.Module:
    """Set the bias of the gate that keeps the state, the second of an LSTM's four and of a GRU's three."""
    with torch.no_grad():
        for path in paths:
            layer: Any = model.get_submodule(path)
            for name, tensor in layer.named_parameters():
                if "bias" in name:
                    tensor[layer.hidden_size : 2 * layer.hidden_size] = bias if "bias_ih" in name else 0.0
    return model


def chrono(model: nn.Module, paths: list[str], steps: int, seed: int) -> nn.Module:
    """Draw the bias of the gate that keeps the state as log u, 1 < u < steps − 1; an LSTM's input gate gets −log u."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path in paths:
            layer: Any = model.get_submodule(path)
            width = layer.hidden_size
            for name, tensor in layer.named_parameters():
                if "bias" in name:
                    tensor[width : 2 * width] = 0.0
                if "bias_ih" in name:
                    keep = torch.log(1.0 + max(1, steps - 2) * torch.rand(width, generator=generator)).to(tensor)
                    tensor[width : 2 * width] = keep
                    if isinstance(layer, (nn.LSTM, nn.LSTMCell)):
                        tensor[:width] = -keep
    return model


def keep_state(model: nn.Module, paths: list[str], steps: int) -> nn.Module:
    """The identity from state to state, without a bias; in an RNN the weights of the inputs divided by √steps."""
    with torch.no_grad():
        for path in paths:
            layer: Any = model.get_submodule(path)
            for name, tensor in layer.named_parameters():
                if "weight_hh" in name or name == "weight":
                    nn.init.eye_(tensor)
                elif "weight_ih" in name:
                    tensor.mul_(steps**-0.5)
                elif "bias" in name:
                    tensor.zero_()
    return model


class InFloat32(nn.Module):
    """A model of float32 weights that takes inputs of 16 bits, and tensors in any container, as they come."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        def wide(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
            if type(value) in (tuple, list):
                return type(value)(wide(each) for each in value)
            return {key: wide(each) for key, each in value.items()} if type(value) is dict else value

        return self.model(*wide(args), **wide(kwargs))


class CentredSigmoid(nn.Module):
    """4 (σ(x) − ½) = 2 tanh(x / 2): zero at zero, slope 1 there."""

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * torch.tanh(x / 2.0)


class Residual(nn.Module):
    """x + scale · block(x), or with ``learn`` the scale as a parameter that starts there."""

    def __init__(self, block: nn.Module, scale: float, learn: bool = False) -> None:
        super().__init__()
        self.block = block
        like = next(block.parameters())
        self.scale = nn.Parameter(like.new_full((), scale)) if learn else scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.block(x)


def wrap_blocks(model: nn.Module, blocks: dict[str, list[tuple[int, int]]], scale: float, learn: bool) -> nn.Module:
    """Make children ``first`` to ``last`` of the Sequential at each path one residual block."""
    for path in sorted(blocks, key=len, reverse=True):
        container: Any = model.get_submodule(path)
        children = list(container)
        for first, last in reversed(blocks[path]):
            children[first : last + 1] = [Residual(nn.Sequential(*children[first : last + 1]), scale, learn)]
        model = put(model, path, nn.Sequential(*children).train(model.training))
    return model


class Shortcut(nn.Module):
    """x + scale · y, or with ``learn`` the scale as a parameter that starts there."""

    def __init__(self, like: Tensor, scale: float, learn: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(like.new_full((), scale)) if learn else scale

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.scale * y


def add_shortcuts(model: nn.Module, blocks: dict[str, list[tuple[str, str]]], scale: float, learn: bool) -> nn.Module:
    """Add what goes into the first node to what the last one makes, for each block of the forward of each module."""
    for path in sorted(blocks, key=len, reverse=True):
        owner = model.get_submodule(path)
        graph = trace(owner)
        nodes = {node.name: node for node in graph.nodes}
        like = next(owner.parameters()).detach()
        for number, (first, last) in enumerate(blocks[path]):
            owner.add_module(f"shortcut{number}", Shortcut(like, scale, learn))
            with graph.inserting_after(nodes[last]):
                new = graph.call_module(f"shortcut{number}")
            nodes[last].replace_all_uses_with(new)
            new.args = (nodes[first].args[0], nodes[last])
        changed = fx.GraphModule(owner, graph, type(owner).__name__).train(owner.training)
        model = put(model, path, changed)
    return model


class Standardise(nn.Module):
    """(x − mean) / deviation, both of a sample of the inputs; a constant feature is only shifted."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, sample: Tensor, dims: tuple[int, ...]) -> None:
        super().__init__()
        deviation = sample.std(dims, keepdim=True, correction=0)
        self.register_buffer("mean", sample.mean(dims, keepdim=True)[0])
        self.register_buffer("deviation", torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))[0])

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


class Rescale(nn.Module):
    """scale · x + shift: outputs in the units of the targets."""

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.shift


class Transformed(nn.Module):
    """a · (f(b · x + c) + d): an activation with another shape at zero."""

    def __init__(self, function: Callable[[Tensor], Tensor], a: float, b: float, c: float, d: float) -> None:
        super().__init__()
        self.function, self.a, self.b, self.c, self.d = function, a, b, c, d

    def forward(self, x: Tensor) -> Tensor:
        return self.a * (self.function(self.b * x + self.c) + self.d)


def set_dropout(model: nn.Module, paths: list[str], p: float) -> nn.Module:
    """Give these layers another rate of dropout."""
    for path in paths:
        module: Any = model.get_submodule(path)
        setattr(module, "dropout" if hasattr(module, "dropout") else "p", p)
    return model


def draw_embeddings(model: nn.Module, paths: list[str], seed: int) -> nn.Module:
    """Normal vectors of variance 1/width; zeros where an index stands for padding."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path in paths:
            module: Any = model.get_submodule(path)
            drawn = torch.randn(module.weight.shape, generator=g) * module.weight.shape[1] ** -0.5
            module.weight.copy_(drawn)
            if module.padding_idx is not None:
                module.weight[module.padding_idx] = 0.0
    return model


def set_momentum(model: nn.Module, paths: list[str], momentum: float) -> nn.Module:
    """Give these normalisers another momentum of their running statistics."""
    for path in paths:
        module: Any = model.get_submodule(path)
        module.momentum = momentum
    return model


def set_batch_first(model: nn.Module, paths: list[str]) -> nn.Module:
    """Have these recurrent layers and attentions take the samples first, and the steps second."""
    for path in paths:
        module: Any = model.get_submodule(path)
        module.batch_first = True
    return model
