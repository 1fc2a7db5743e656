"""The description of a transformer, stated once and passed whole, and the published sizes of the Vision Transformer."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from mmrep.errors import ConfigError, near
from mmrep.nn.positions import ScaledRotary

ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "swiglu", "geglu")
GATED = ("swiglu", "geglu")
IMPLEMENTATIONS = (None, "xla", "matmul", "cudnn")


@dataclass(frozen=True)
class TransformerConfig:
    """A stack of transformer blocks: every module that contains one takes this config whole.

    width, depth, heads: size of a token's vector, number of blocks, attention heads in each. Depth 0: each token by itself, then the final norm.
    kv_heads: heads of keys and values, each shared by heads / kv_heads heads of queries (grouped queries, Ainslie et al. 2023; 1 is
        multi-query attention). None: `heads`.   head_dim: size of a head. None: width / heads.
    mlp_ratio: hidden width of the MLP over `width`; a gated MLP has two thirds of that, so that its three matrices have the
        parameters of two.   mlp_dim: the hidden width itself, where it is no such ratio (None: from `mlp_ratio`).
    norm: "pre" normalises the input of each part (Xiong et al. 2020), "post" the sum after it (Vaswani et al. 2017, BERT).
    norm_type: "layer" (LayerNorm) or "rms" (RMSNorm, Zhang and Sennrich 2019).   epsilon: added to the variance in each of them.
    activation: of the MLP. "gelu" is exact, "gelu_tanh" its approximation (GPT-2), "quick_gelu" x sigmoid(1.702 x) (CLIP), "relu";
        gated (Shazeer 2020): "swiglu" silu(up(x)) * gate(x), "geglu" with "gelu_tanh".
    use_bias: True, False (no bias anywhere), or "qkv": only where queries, keys and values are projected (Qwen2).
    qk_norm: normalise each head's queries and keys by `norm_type`, without bias (Dehghani et al. 2023, ViT-22B).
    sub_norm: normalise the heads' outputs together before attention's output projection (Wang et al. 2022, Magneto).
    rotary: base of the rotary positions of self-attention (Su et al. 2021; Llama: 10,000, then 500,000), see
        `mmrep.nn.positions.rotary`, or `ScaledRotary`; None: no rotation.
    drop_path: stochastic depth (Huang et al. 2016), in [0, 1): the drop rate of the last block, rising linearly from 0 at the first.
        It acts while an encoder is fine-tuned (its batch has a key "rng"), not in the training of a dual encoder itself.
    dropout: of the outputs of attention and MLP, number by number, before they are added to the residual stream (Vaswani et al. 2017,
        section 5.4), in [0, 1). It acts where an rng "dropout" is given: in encoders of a dual encoder where the batch has a key "rng".
    scan: compile one block whatever the depth; parameters are stacked under "blocks".
    remat: recompute a block's activations in the backward pass instead of keeping them.
    implementation: of attention, see `mmrep.nn.attention.attend`.
    Raises ConfigError for a value outside its range.
    """

    width: int = 96
    depth: int = 4
    heads: int = 4
    kv_heads: int | None = None
    head_dim: int | None = None
    mlp_ratio: float = 4.0
    mlp_dim: int | None = None
    norm: Literal["pre", "post"] = "pre"
    norm_type: Literal["layer", "rms"] = "layer"
    epsilon: float = 1e-5
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "swiglu", "geglu"] = "gelu"
    use_bias: bool | Literal["qkv"] = True
    qk_norm: bool = False
    sub_norm: bool = False
    rotary: float | ScaledRotary | None = None
    drop_path: float = 0.0
    dropout: float = 0.0
    scan: bool = False
    remat: bool = False
    implementation: Literal["xla", "matmul", "cudnn"] | None = None

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "kv_heads", "head_dim"):
            value, least = getattr(self, name), 0 if name == "depth" and not self.scan else 1
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}.")
        if self.head_dim is None and self.width % self.heads:
            raise ConfigError(f"heads is {self.heads} and width is {self.width}; choose heads that divide the width.")
        if self.heads % self.key_heads:
            raise ConfigError(f"kv_heads is {self.kv_heads} and heads is {self.heads}; choose kv_heads that divide it.")
        base = self.rotary.base if isinstance(self.rotary, ScaledRotary) else self.rotary
        if base is not None and (base <= 0 or self.key_dim % 2):
            raise ConfigError(
                f"rotary is {self.rotary} and a head has {self.key_dim} numbers; give a positive base and an even head."
            )
        if not math.isfinite(self.mlp_ratio) or self.hidden < 1:
            raise ConfigError(f"mlp_ratio is {self.mlp_ratio} and mlp_dim {self.mlp_dim}; the MLP needs a hidden unit.")
        choices: tuple[tuple[str, Any], ...] = (
            ("norm", ("pre", "post")),
            ("norm_type", ("layer", "rms")),
            ("activation", ACTIVATIONS),
            ("implementation", IMPLEMENTATIONS),
        )
        for name, known in choices:
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name} is {value!r}{near(value, [k for k in known if k])}")
        if self.use_bias not in (True, False, "qkv"):
            raise ConfigError(f"use_bias is {self.use_bias!r}; choose True, False or 'qkv'.")
        for name in ("drop_path", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be in [0, 1).")

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        if self.mlp_dim is not None:
            return self.mlp_dim
        hidden = int(self.width * self.mlp_ratio)
        return 2 * hidden // 3 if self.activation in GATED else hidden

    @property
    def bias(self) -> bool:
        """Whether norms, MLPs and attention outputs have biases."""
        return self.use_bias is True

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def key_dim(self) -> int:
        """Size of a head's queries, keys and values."""
        return self.head_dim or self.width // self.heads


# Width, depth, MLP width, heads. Dosovitskiy et al. 2021 (B, L, H), Touvron et al. 2021 (Ti, S), Zhai et al. 2022, table 2 (mu to G).
VARIANTS = {
    "mu": (32, 1, 128, 2),
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
}


def variant(name: str, **options: Any) -> tuple[TransformerConfig, int]:
    """A published Vision Transformer: `variant("B/16", scan=True)` is (its TransformerConfig with these options, patch 16).

    Raises ConfigError for a name that is not one of `VARIANTS`, a slash and the side of a patch in pixels.
    """
    size, slash, patch = name.partition("/")
    if size not in VARIANTS:
        raise ConfigError(f"variant {name!r} has no size {size!r}{near(size, VARIANTS)}")
    if not slash or not patch.isdigit() or int(patch) < 1:
        raise ConfigError(f"variant {name!r} has no patch; write it as in 'B/16'.")
    width, depth, mlp, heads = VARIANTS[size]
    shape: dict[str, Any] = {"width": width, "depth": depth, "heads": heads}
    return TransformerConfig(**shape | ({} if mlp == 4 * width else {"mlp_dim": mlp}) | options), int(patch)
