"""Models of packages that others wrote, small and with random weights: for each a batch, a loss and the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TRAINS = "trains"  # the loss falls in a short training, so that no error-level finding is right before it


@dataclass(frozen=True)
class Stranger:
    """``make()`` gives model, inputs, targets, loss_fn; ``truth``: TRAINS, or the code of the fault put in."""

    package: str
    make: Callable[[], tuple[nn.Module, Any, Any, Any]]
    truth: str = TRAINS
    how: str = "a short training with Adam lowers the loss"


STRANGERS: dict[str, Stranger] = {}


def stranger(package: str, truth: str = TRAINS, how: str = "a short training with Adam lowers the loss") -> Any:
    def register(make: Any) -> Any:
        STRANGERS[make.__name__] = Stranger(package, make, truth, how)
        return make

    return register


IDS = torch.randint(5, 60, (8, 12), generator=torch.Generator().manual_seed(0))
WORDS = {"vocab_size": 64}
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------ transformers and peft
LANGUAGE = {
    "gpt2": ("GPT2Config", {"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32}),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", dict(**WORDS, **SMALL)),
    "llama": ("LlamaConfig", dict(**WORDS, **SMALL)),
    "mistral": ("MistralConfig", dict(**WORDS, **SMALL, num_key_value_heads=2)),
    "mixtral": ("MixtralConfig", dict(**WORDS, **SMALL, num_key_value_heads=2, num_local_experts=4)),
    "qwen2": ("Qwen2Config", dict(**WORDS, **SMALL, num_key_value_heads=2)),
    "opt": (
        "OPTConfig",
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "word_embed_proj_dim": 32,
        },
    ),
    "bloom": ("BloomConfig", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mamba": ("MambaConfig", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "falcon": ("FalconConfig", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "gemma": ("GemmaConfig", dict(**WORDS, **SMALL, head_dim=8, num_key_value_heads=1)),
}


def causal(config: str, options: dict[str, Any]) -> tuple[nn.Module, Any, Any, Any]:
    import transformers

    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**options))
    return model, {"input_ids": IDS, "labels": IDS}, None, None


for _name, (_config, _options) in LANGUAGE.items():
    STRANGERS[f"transformers_{_name}"] = Stranger(
        "transformers",
        lambda c=_config, o=_options: causal(c, o),  # type: ignore[misc]
    )

ENCODERS = {
    "bert": ("BertConfig", dict(**WORDS, **SMALL)),
    "roberta": ("RobertaConfig", dict(**WORDS, **SMALL, max_position_embeddings=32)),
    "distilbert": ("DistilBertConfig", {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}),
    "electra": ("ElectraConfig", dict(**WORDS, **SMALL, embedding_size=16)),
    "deberta_v2": ("DebertaV2Config", dict(**WORDS, **SMALL, relative_attention=True)),
    "albert": ("AlbertConfig", dict(**WORDS, **SMALL, embedding_size=16)),
}


def classifier(config: str, options: dict[str, Any]) -> tuple[nn.Module, Any, Any, Any]:
    import transformers

    made = getattr(transformers, config)(**options, num_labels=3)
    model = transformers.AutoModelForSequenceClassification.from_config(made)
    return model, {"input_ids": IDS, "labels": torch.arange(8) % 3}, None, None


for _name, (_config, _options) in ENCODERS.items():
    STRANGERS[f"transformers_{_name}"] = Stranger(
        "transformers",
        lambda c=_config, o=_options: classifier(c, o),  # type: ignore[misc]
    )


@stranger("transformers")
def transformers_vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, num_labels=3, **SMALL))
    return model, {"pixel_values": draw(8, 3, 16, 16), "labels": torch.arange(8) % 3}, None, None


@stranger("transformers")
def transformers_convnext() -> Any:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(hidden_sizes=[16, 32], depths=[2, 2], num_stages=2, num_labels=3)
    return ConvNextForImageClassification(config), {
        "pixel_values": draw(8, 3, 32, 32), "labels": torch.arange(8) % 3
    }, None, None  # fmt: skip


@stranger("transformers")
def transformers_resnet() -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], num_labels=3)
    return ResNetForImageClassification(config), {
        "pixel_values": draw(8, 3, 32, 32), "labels": torch.arange(8) % 3
    }, None, None  # fmt: skip


@stranger("transformers")
def transformers_t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(
        T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)
    )
    return model, {"input_ids": IDS, "labels": IDS}, None, None


@stranger("transformers")
def transformers_wav2vec2() -> Any:
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    config = Wav2Vec2Config(
        **SMALL, conv_dim=(16, 16), conv_kernel=(5, 3), conv_stride=(3, 2), num_feat_extract_layers=2,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, num_labels=3, classifier_proj_size=16,
        mask_time_prob=0.0, layerdrop=0.0,
    )  # fmt: skip
    model = Wav2Vec2ForSequenceClassification(config)
    return model, {"input_values": draw(8, 400), "labels": torch.arange(8) % 3}, None, None


@stranger("transformers", truth="UV706", how="a softmax before the model's own cross-entropy was put in")
def transformers_double_softmax() -> Any:
    model, inputs, _, _ = classifier(*ENCODERS["bert"])
    model.classifier = nn.Sequential(model.classifier, nn.Softmax(-1))  # type: ignore[arg-type]
    return model, inputs, None, None


@stranger("transformers", truth="UV602", how="a hook that detaches the second block's output was put in")
def transformers_detached() -> Any:
    model, inputs, _, _ = classifier(*ENCODERS["bert"])

    def cut(_: Any, __: Any, output: Any) -> Any:
        return (output[0].detach(), *output[1:]) if isinstance(output, tuple) else output.detach()

    model.bert.encoder.layer[1].register_forward_hook(cut)
    return model, inputs, None, None


@stranger("peft")
def peft_lora() -> Any:
    from peft import LoraConfig, get_peft_model

    model, inputs, _, _ = classifier(*ENCODERS["bert"])
    return (
        get_peft_model(model, LoraConfig(r=4, target_modules=["query", "value"], task_type="SEQ_CLS")),
        inputs,
        None,
        None,
    )


@stranger("peft")
def peft_lora_llama() -> Any:
    from peft import LoraConfig, get_peft_model

    model, inputs, _, _ = causal(*LANGUAGE["llama"])
    return (
        get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")),
        inputs,
        None,
        None,
    )


@stranger("peft")
def peft_ia3() -> Any:
    from peft import IA3Config, get_peft_model

    model, inputs, _, _ = causal(*LANGUAGE["llama"])
    config = IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])
    return get_peft_model(model, config), inputs, None, None


@stranger("peft")
def peft_prompt() -> Any:
    from peft import PromptTuningConfig, get_peft_model

    model, inputs, _, _ = causal(*LANGUAGE["gpt2"])
    return get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)), inputs, None, None


# ------------------------------------------------------------ diffusers, other transformers
@stranger("diffusers")
def diffusers_unet() -> Any:
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(16, 32),
        norm_num_groups=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"), attention_head_dim=8,
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    inputs = {"sample": draw(4, 3, 16, 16), "timestep": torch.arange(4) * 10}
    return model, inputs, draw(4, 3, 16, 16, seed=1), lambda o, t: F.mse_loss(o.sample, t)


@stranger("diffusers")
def diffusers_vae() -> Any:
    from diffusers import AutoencoderKL

    model = AutoencoderKL(block_out_channels=(16,), norm_num_groups=8, latent_channels=4, sample_size=16)
    x = draw(4, 3, 16, 16)
    return model, {"sample": x}, x, lambda o, t: F.mse_loss(o.sample, t)


@stranger("diffusers")
def diffusers_dit() -> Any:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, num_layers=2, sample_size=8, norm_num_groups=4,
        num_embeds_ada_norm=10,
    )  # fmt: skip
    inputs = {"hidden_states": draw(4, 4, 8, 8), "timestep": torch.arange(4), "class_labels": torch.arange(4)}
    return model, inputs, draw(4, 4, 8, 8, seed=1), lambda o, t: F.mse_loss(o.sample, t)


@stranger("x-transformers")
def x_transformers_decoder() -> Any:
    from x_transformers import Decoder, TransformerWrapper

    model = TransformerWrapper(num_tokens=64, max_seq_len=16, attn_layers=Decoder(dim=32, depth=3, heads=4))
    return model, IDS[:, :-1], IDS[:, 1:], lambda o, t: F.cross_entropy(o.transpose(1, 2), t)


def vision(name: str, **options: Any) -> Any:
    import importlib

    module, _, kind = name.rpartition(".")
    model = getattr(importlib.import_module(f"vit_pytorch.{module}"), kind)(image_size=16, num_classes=3, **options)
    return model, draw(8, 3, 16, 16), torch.arange(8) % 3, F.cross_entropy


@stranger("vit-pytorch")
def vit_pytorch_vit() -> Any:
    return vision("vit.ViT", patch_size=4, dim=32, depth=3, heads=4, mlp_dim=64)


@stranger("vit-pytorch")
def vit_pytorch_cait() -> Any:
    return vision("cait.CaiT", patch_size=4, dim=32, depth=6, cls_depth=2, heads=4, mlp_dim=64)


@stranger("vit-pytorch")
def vit_pytorch_cait_deep() -> Any:
    return vision("cait.CaiT", patch_size=4, dim=32, depth=24, cls_depth=2, heads=4, mlp_dim=64)


@stranger("vit-pytorch")
def vit_pytorch_deepvit() -> Any:
    return vision("deepvit.DeepViT", patch_size=4, dim=32, depth=3, heads=4, mlp_dim=64)


def smooth(x: Tensor) -> Tensor:
    return torch.sin(2.0 * x[:, :1]) + x[:, 1:2] * x[:, :1]


def points(count: int = 64, width: int = 4) -> tuple[Tensor, Tensor]:
    x = draw(count, width)
    return x, smooth(x)


def decay_residual(net: nn.Module, t: Tensor) -> Tensor:
    """u' + u = 0, u(0) = 1 by construction."""
    t = t.clone().requires_grad_(True)
    u = 1.0 + t * net(t)
    (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
    return slope + u


def heat_residual(net: nn.Module, x: Tensor) -> Tensor:
    """u_t = 0.1 u_xx with u(x, 0) = sin(πx) by construction."""
    x = x.clone().requires_grad_(True)
    u = torch.sin(math.pi * x[:, :1]) + x[:, 1:] * net(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope[:, :1].sum(), x, create_graph=True)
    return slope[:, 1:] - 0.1 * bend[:, :1]
