"""UCASR's encoders and losses: logarithmic bands, a VGG, the CCA layer, ranking."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from mmrep.errors import ConfigError
from mmrep.losses.contrastive import nt_xent
from mmrep.losses.ranking import hinge
from mmrep.nn.heads import l2_normalise


@dataclass(frozen=True)
class Bands:
    """A spectrogram in logarithmic bands: log10(1 + x) of magnitudes under triangles, `per_octave` to the octave from 440 Hz.

    fft, hop: samples of the Hann window, and from one frame to the next.   Bands narrower than a bin of the spectrum are merged.
    """

    rate: int = 22_050
    fft: int = 2048
    hop: int = 1103
    per_octave: int = 16
    low: float = 30.0
    high: float = 6000.0

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high <= self.rate / 2 or self.hop < 1:
            raise ConfigError(
                f"bands from {self.low} to {self.high} Hz at rate {self.rate}, hop {self.hop}: low < high <= rate / 2"
            )

    def filters(self) -> Float[np.ndarray, "F N"]:
        b = self.per_octave
        edges = np.arange(np.floor(b * np.log2(self.low / 440)), np.ceil(b * np.log2(self.high / 440)) + 1)
        hz = 440 * 2 ** (edges / b)
        hz = hz[(hz >= self.low) & (hz <= self.high)]
        at = np.unique(np.minimum(np.round(hz * self.fft / self.rate), self.fft // 2)).astype(int)
        found = np.zeros((self.fft // 2 + 1, len(at) - 2), np.float32)
        for i, (left, centre, right) in enumerate(zip(at[:-2], at[1:-1], at[2:])):
            found[left:centre, i] = np.linspace(0, 1, centre - left, endpoint=False)
            found[centre:right, i] = np.linspace(1, 0, right - centre, endpoint=False)
        return found / found.sum(0)

    def __call__(self, wave: Float[Array, "B T"]) -> Float[Array, "B N frames 1"]:
        frames = wave.shape[1] // self.hop
        x = jnp.pad(jnp.asarray(wave, jnp.float32), ((0, 0), (self.fft // 2, self.fft // 2)))
        x = x[:, np.arange(frames)[:, None] * self.hop + np.arange(self.fft)]
        window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.fft) / self.fft)).astype(np.float32)
        magnitude = jnp.abs(jnp.fft.rfft(x * window))
        return jnp.log10(1 + magnitude @ self.filters()).swapaxes(1, 2)[..., None]


class Vgg(nn.Module):
    """Blocks of two 3x3 convolutions, each with a norm and ELU, and a maximum over 2x2; a 1x1 convolution to `out` and a norm; flattened.

    norm: "group", in the place of the authors' BatchNorm; "affine": scale and shift alone, of a BatchNorm folded after training.
    """

    channels: tuple[int, ...] = (24, 48, 96, 96)
    out: int = 32
    norm: Literal["group", "affine"] = "group"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B D"]:
        init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")

        def norm(x: Array, name: str) -> Array:
            if self.norm == "group":  # the last shift would be the same for all records: CCA removes it
                return nn.GroupNorm(num_groups=None, group_size=4, use_bias=name != "norm", name=name)(x)
            scale = self.param(f"{name}_scale", nn.initializers.ones_init(), x.shape[-1:], jnp.float32)
            return x * scale + self.param(f"{name}_bias", nn.initializers.zeros_init(), x.shape[-1:], jnp.float32)

        for i, width in enumerate(self.channels):
            for j in (1, 2):
                x = nn.Conv(width, (3, 3), use_bias=False, kernel_init=init, name=f"block{i}_conv{j}")(x)
                x = nn.elu(norm(x, f"block{i}_norm{j}"))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = norm(nn.Conv(self.out, (1, 1), use_bias=False, kernel_init=init, name="conv")(x), "norm")
        return x.reshape(len(x), -1)


class PretrainHead(nn.Module):
    """A linear map, LayerNorm (the authors': BatchNorm), ReLU, a linear map; of unit length. It is dropped after pre-training."""

    hidden: int
    dim: int

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B E"]:
        x = nn.relu(nn.LayerNorm(name="norm")(nn.Dense(self.hidden, name="hidden")(x)))
        return l2_normalise(nn.Dense(self.dim, name="out")(x))


class Cca(NamedTuple):
    """Means of both sides, and the projections of what is left."""

    x_mean: Float[Array, " D"]
    y_mean: Float[Array, " D"]
    u: Float[Array, "D D"]
    v: Float[Array, "D D"]

    def __call__(
        self, x: Float[Array, "B D"], y: Float[Array, "B D"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
        """Both sides in the correlated directions, of unit length."""
        return l2_normalise((x - self.x_mean) @ self.u), l2_normalise((y - self.y_mean) @ self.v)


def identity_cca(dim: int) -> Cca:
    return Cca(jnp.zeros(dim), jnp.zeros(dim), jnp.eye(dim), jnp.eye(dim))


def cca(x: Float[Array, "N D"], y: Float[Array, "N D"], ridge: float = 1e-3) -> tuple[Cca, Float[Array, " D"]]:
    """(canonical projections of N pairs, their correlations, falling), in float32 (Dorfer et al. 2018; UCASR's CCALayer).

    Covariances get `ridge` on their diagonal. Whitened by Cholesky factors and one SVD of T: the same directions as from two
    eigendecompositions of T T' and T' T, in falling order and with signs that agree. With N <= D all pairs correlate: see `enough`.
    """
    n, d = x.shape
    if n < 2:
        raise ConfigError(f"a batch has {n} row: correlations need at least 2")
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    x_mean, y_mean = x.mean(0), y.mean(0)
    a, b = x - x_mean, y - y_mean
    whiten = [jnp.linalg.cholesky(s.T @ s / (n - 1) + ridge * jnp.eye(d)) for s in (a, b)]
    left = jax.scipy.linalg.solve_triangular(whiten[0], a.T @ b / (n - 1), lower=True)
    t = jax.scipy.linalg.solve_triangular(whiten[1], left.T, lower=True).T
    e, s, f = jnp.linalg.svd(t)
    u, v = (jax.scipy.linalg.solve_triangular(w, m, lower=True, trans=1) for w, m in zip(whiten, (e, f.T)))
    return Cca(x_mean, y_mean, u, v), s


def enough(pairs: int, dim: int, field: str) -> None:
    """Raises ConfigError unless there are more pairs than dimensions: fewer have a perfect correlation, whatever they are."""
    if pairs <= dim:
        raise ConfigError(f"{field} is {pairs}: the CCA of {dim} dimensions (system.dim) needs more pairs")


def ranking_loss(x: Float[Array, "B D"], y: Float[Array, "B D"], margin: float = 0.6) -> Float[Array, ""]:
    """Mean over i != j of [margin - (s_ii - s_ij)]_+, the rows x being the queries."""
    rows, _ = hinge(x @ y.T, margin, hardest=False)
    return rows.sum() / (len(x) * (len(x) - 1))


def two_views_loss(z: tuple[Array, Array], temperature: float) -> Float[Array, ""]:
    """NT-Xent of two views' unit vectors, the mean over both as anchors."""
    return nt_xent(*z, 1 / temperature).mean()


Objective = Literal["pretrain", "mixed", "align"]


def modules(
    sheet: tuple[int, ...], audio: tuple[int, ...], out: int, hidden: int, dim: int, norm: Any
) -> dict[str, dict[str, nn.Module]]:
    """{side: {"encoder", "pretrain", "align"}}."""
    return {
        side: {
            "encoder": Vgg(channels, out, norm),
            "pretrain": PretrainHead(hidden, dim),
            "align": nn.Dense(dim, use_bias=False),
        }
        for side, channels in (("sheet", sheet), ("audio", audio))
    }
