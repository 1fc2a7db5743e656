"""VideoLights' network: highlights from the best moment, and the whole."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmrep.nn.config import TransformerConfig
from mmrep.nn.heads import l2_normalise
from mmrep.nn.set_prediction import SpanDecoder, sines
from mmrep.nn.spans import to_ends
from mmrep.systems.video.videolights.model import BiCMF, EncoderLayer, Inputs, Refinement


class Feedback(nn.Module):
    """Saliency from the best moment: a GRU over its clips gives g, and clip c of the memory is scaled by 1 + <g, v_c>.

    The moment covers the clips floor(start) to floor(end), at least one; it has no gradient. The GRU ends at the moment's last clip.
    """

    @nn.compact
    def __call__(
        self, clips: Float[Array, "B T D"], memory: Float[Array, "B T D"], span: Float[Array, "B 2"]
    ) -> Float[Array, "B T"]:
        _, t, d = clips.shape
        ends = jnp.clip(jnp.floor(jax.lax.stop_gradient(span) * t).astype(jnp.int32), 0, t - 1)
        index = jnp.minimum(ends[:, :1] + jnp.arange(t), t - 1)
        inside = jnp.take_along_axis(clips, index[..., None], 1)
        cells = nn.RNN(nn.GRUCell(d), return_carry=True, name="gru")
        g, _ = cells(inside, seq_lengths=ends[:, 1] - ends[:, 0] + 1)
        weight = jnp.einsum("bd,btd->bt", g, clips)
        return nn.Dense(d, use_bias=False, name="saliency")(memory * (1 + weight[..., None])).sum(-1) / d**0.5


class Network(nn.Module):
    """Features of clips and words of a text -> spans and saliency.

    layers: of the encoder; `config.depth` is that of the decoder.   fusion: layers of Bi-CMF.   align: width of the queries' and words'
    projections.   mismatched: also the saliency of each video with the words of the next record.
    """

    config: TransformerConfig
    layers: int
    fusion: int
    queries: int
    refine: bool
    words: bool
    two_way: bool
    literal: bool
    feedback: bool
    input_dropout: float
    align: int = 64

    @nn.compact
    def __call__(
        self, video: Float[Array, "B T E"], text: Float[Array, "B L E2"], v_valid: Bool[Array, "B T"], t_valid: Bool[Array, "B L"],
        mismatched: bool = False,
    ) -> dict[str, Array | list]:  # fmt: skip
        c, d, b = self.config, self.config.width, len(video)
        projected = Inputs(d, self.input_dropout, name="video_in")(video)
        words = Inputs(d, self.input_dropout, name="text_in")(text)
        clips = projected
        if self.refine:
            clips = Refinement(self.words, c.dropout, name="refinement")(projected, words, v_valid, t_valid)
        count = jnp.cumsum(v_valid, 1)
        at = sines(count / jnp.maximum(count[:, -1:], 1), d)
        token, place = (
            self.param(name, nn.initializers.normal(1.0), (d,), jnp.float32) for name in ("token", "token_at")
        )
        lead = lambda x, y: jnp.concatenate([jnp.broadcast_to(x, (b, 1, d)), y], 1)  # noqa: E731
        whole = jnp.concatenate([jnp.ones((b, 1), bool), v_valid], 1)
        fusion = [BiCMF(c, self.two_way, self.literal, name=f"fusion{i:02d}") for i in range(self.fusion)]
        encoder = [EncoderLayer(c, name=f"encoder{i:02d}") for i in range(self.layers)]
        heads = [nn.Dense(d, name=name) for name in ("saliency_clip", "saliency_global")]

        def encode(words: Array, valid: Array) -> tuple[Array, Array, Array]:
            x = clips
            for layer in fusion:
                x = layer(x, words, at, v_valid, valid)
            x = lead(token, x)
            for layer in encoder:
                x = layer(x, lead(place, at), whole)
            return x[:, 1:], x[:, 0], jnp.einsum("btd,bd->bt", heads[0](x[:, 1:]), heads[1](x[:, 0])) / d**0.5

        memory, fused, saliency = encode(words, t_valid)
        layers = SpanDecoder(c, self.queries, name="decoder")(memory, at, v_valid)
        out = {"layers": layers, "saliency": saliency, "fused": fused, "clips": clips, "words": words}
        queries, texts = nn.Dense(self.align, name="align_query"), nn.Dense(self.align, name="align_text")
        out |= {"queries": [l2_normalise(queries(h)) for *_, h in layers], "texts": l2_normalise(texts(words))}
        if self.feedback:
            logits, spans, _ = layers[-1]
            best = jnp.take_along_axis(spans, (logits[..., 0] - logits[..., 1]).argmax(1)[:, None, None], 1)[:, 0]
            out["from_moment"] = Feedback(name="feedback")(projected, memory, to_ends(best))
        if mismatched:
            out["mismatched"] = encode(jnp.roll(words, -1, 0), jnp.roll(t_valid, -1, 0))[2]
        return out
