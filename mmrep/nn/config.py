"""The description of a transformer, stated once and passed whole, and the published sizes of the Vision Transformer."""

from dataclasses import dataclass
from typing import Any, Literal

from mmrep.errors import ConfigError, near

ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "swiglu")
IMPLEMENTATIONS = (None, "xla", "matmul")


@dataclass(frozen=True)
class TransformerConfig:
    """A stack of transformer blocks: every module that contains one takes this config whole.

    width, depth, heads: size of a token's vector, number of blocks, attention heads in each.
    mlp_ratio: hidden width of the MLP over `width`; a gated MLP ("swiglu") has two thirds of that, so that its three matrices
        have the parameters of two.   mlp_dim: the hidden width itself, where it is no such ratio (None: from `mlp_ratio`).
    norm: "pre" normalises the input of each part (Xiong et al. 2020), "post" the sum after it (Vaswani et al. 2017, BERT).
    epsilon: added to the variance in every normalisation.
    activation: of the MLP. "gelu" is exact, "gelu_tanh" its approximation (GPT-2), "quick_gelu" x sigmoid(1.702 x) (CLIP),
        "swiglu" silu(up(x)) * gate(x) (Shazeer 2020).
    use_bias: False leaves out every bias.
    drop_path: stochastic depth (Huang et al. 2016), in [0, 1): the drop rate of the last block, rising linearly from 0 at the first.
    scan: compile one block whatever the depth; parameters are stacked under "blocks".
    remat: recompute a block's activations in the backward pass instead of keeping them.
    implementation: of attention, see `mmrep.nn.attention.attend`.
    Raises ConfigError for a value outside its range.
    """

    width: int = 96
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0
    mlp_dim: int | None = None
    norm: Literal["pre", "post"] = "pre"
    epsilon: float = 1e-5
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"] = "gelu"
    use_bias: bool = True
    drop_path: float = 0.0
    scan: bool = False
    remat: bool = False
    implementation: Literal["xla", "matmul"] | None = None

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.width % self.heads:
            raise ConfigError(f"heads is {self.heads} and width is {self.width}; choose heads that divide the width.")
        if self.hidden < 1:
            raise ConfigError(f"mlp_ratio is {self.mlp_ratio} and mlp_dim {self.mlp_dim}; the MLP needs a hidden unit.")
        choices: tuple[tuple[str, Any], ...] = (
            ("norm", ("pre", "post")),
            ("activation", ACTIVATIONS),
            ("implementation", IMPLEMENTATIONS),
        )
        for name, known in choices:
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name} is {value!r}{near(value, [k for k in known if k])}")
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"drop_path is {self.drop_path}; it must be in [0, 1).")

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        if self.mlp_dim is not None:
            return self.mlp_dim
        hidden = int(self.width * self.mlp_ratio)
        return 2 * hidden // 3 if self.activation == "swiglu" else hidden


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
