"""Language models of Hugging Face folders: GPT-2, and Llama's form (Llama, SmolLM; Qwen2, whose queries, keys and values have biases)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

from mmrep import modality
from mmrep.config import Data, Experiment, Tokenizer
from mmrep.errors import ConfigError, DataError
from mmrep.interop import names as n
from mmrep.losses.reduce import masked_mean
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.decoder_lm import DecoderLM, generate, next_token_loss
from mmrep.nn.pooling import layer_features
from mmrep.nn.positions import ScaledRotary
from mmrep.system import Batch, Extras, Params, System, stateless

QKV = ("query", "key", "value")
# Their linear layers of GPT-2 are stored as ours, [in, out].
GPT2 = (
    n.Row("wte.weight", "embed/embedding"), n.Row("wpe.weight", "positions/embedding"), *n.norm("ln_f", "transformer/norm"),
    *n.within("h.{i}", "transformer/block{i:02d}", (
        *n.norm("ln_1", "norm_attn"), *n.norm("ln_2", "norm_mlp"),
        n.Row("attn.c_attn.weight", tuple(f"attn/{k}/kernel" for k in QKV), n.split(3, axis=1)),
        n.Row("attn.c_attn.bias", tuple(f"attn/{k}/bias" for k in QKV), n.split(3)),
        *(n.Row(f"{theirs}.{leaf}", f"{ours}/{our_leaf}")
          for theirs, ours in (("attn.c_proj", "attn/out"), ("mlp.c_fc", "mlp/up"), ("mlp.c_proj", "mlp/down"))
          for leaf, our_leaf in (("weight", "kernel"), ("bias", "bias"))),
    )),
    n.unused("h.{i}.attn.bias", "h.{i}.attn.masked_bias"),
)  # fmt: skip
LLAMA = (
    n.Row("embed_tokens.weight", "embed/embedding"), n.Row("norm.weight", "transformer/norm/scale"),
    *n.within("layers.{i}", "transformer/block{i:02d}", (
        n.Row("input_layernorm.weight", "norm_attn/scale"), n.Row("post_attention_layernorm.weight", "norm_mlp/scale"),
        *(row for k in QKV for row in n.dense(f"self_attn.{k[0]}_proj", f"attn/{k}")),
        *n.dense("self_attn.o_proj", "attn/out"), *n.dense("mlp.gate_proj", "mlp/up"), *n.dense("mlp.up_proj", "mlp/gate"),
        *n.dense("mlp.down_proj", "mlp/down"),
    )),
    n.unused("layers.{i}.self_attn.rotary_emb.inv_freq"),
)  # fmt: skip
LENGTH = 4096
"""The greatest length of a text in `Data`; newer models have room for much more."""
OWN_OUTPUT = n.Row("lm_head.weight", "out/kernel", n.DENSE)
TIED_OUTPUT = n.Row("lm_head.weight", "embed/embedding", tied=True)


@dataclass(frozen=True)
class Config:
    """A language model as a system over the modality "text": ids of the file's own vocabulary, padded behind each row with `pad`.

    ends: ids that end a generated text.
    """

    lm: DecoderLM = DecoderLM()
    pad: int = 0
    ends: tuple[int, ...] = ()

    def build(self) -> System:
        """infer: "text" (the vector of the last token), "text_tokens", "text_layers", and "logits" [B, L, V] of each next token."""
        module = self.lm.module()

        def run(params: Params, batch: Batch) -> tuple[Array, dict[str, Any]]:
            ids = jnp.asarray(batch["text"])
            return module.apply({"params": params}, ids, valid=valid_places(ids, self.pad))

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            return module.init(rng, jnp.zeros(batch["text"].shape, jnp.int32))["params"], {}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, dict[str, Array]]:
            logits, out = run(params, batch)
            value = masked_mean(*next_token_loss(logits, jnp.asarray(batch["text"]), out["valid"]))
            return value, {"perplexity": jnp.exp(value)}

        def tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
            out = run(params, batch)[1]
            return out["tokens"], out["valid"]

        return System(
            init,
            stateless(loss),
            {
                "text": lambda params, extras, batch: run(params, batch)[1]["pooled"],
                "text_tokens": tokens,
                "text_layers": lambda params, extras, batch: layer_features(run(params, batch)[1]),
                "logits": lambda params, extras, batch: run(params, batch)[0],
            },
            tokens=lambda params, extras: Writer(self, params),
        )


class Writer:
    """Continues texts with a language model: `model.generate("text", text=["A red"], length=20, temperature=0.7)`."""

    def __init__(self, config: Config, params: Params) -> None:
        self._config, self._params = config, params

        def run(params: Params, ids: Array, valid: Array, rng: PRNGKeyArray, length: int, *settings: Any) -> Array:
            ends = jnp.asarray(config.ends or (-1,))
            temperature, top_k, top_p = settings
            found = generate(
                config.lm, params, ids, length, rng, valid=valid, ends=lambda ids: (ids[:, None] == ends).any(1),
                temperature=temperature, top_k=top_k, top_p=top_p, pad=config.pad,
            )  # fmt: skip
            return found.ids

        self._run = jax.jit(run, static_argnums=4)

    def generate(
        self, batch: Batch, targets: Sequence[str], *, batch_size: int = 1, seed: int = 0, length: int = 64, temperature: float = 0.0,
        top_k: int = 0, top_p: float = 0.0,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """{"text": ids [B, length]} that follow the prompts batch["text"], `pad` behind an end.

        temperature: 0 takes the likeliest token; top_k, top_p: see `mmrep.generation.sampling.sample`.
        Raises ConfigError without prompts, for another target, and where prompt and answer are longer than the model.
        """
        if [*targets] != ["text"] or "text" not in batch:
            raise ConfigError('a language model continues texts: model.generate("text", text=["A red"])')
        if length < 1:
            raise ConfigError(f"length is {length}: ask for at least 1 token")
        ids = np.asarray(batch["text"])
        lengths = np.asarray(valid_places(jnp.asarray(ids), self._config.pad)).sum(1)
        width = int(lengths.max())
        if not lengths.min():
            raise ConfigError("a prompt has no token: give it at least one word")
        # Few shapes to compile, but never more places than the model has.
        width = max(width, min(1 << (width - 1).bit_length(), self._config.lm.length - length))
        # All prompts end at the same place: shorter ones are padded in front.
        at = np.arange(width)[None] - (width - lengths)[:, None]
        rows = np.take_along_axis(np.pad(ids, ((0, 0), (0, max(0, width - ids.shape[1])))), np.maximum(at, 0), axis=1)
        settings = (np.float32(temperature), np.float32(top_k), np.float32(top_p))
        return {"text": np.asarray(self._run(self._params, rows, at >= 0, jax.random.key(seed), length, *settings))}


def valid_places(ids: Array, pad: int) -> Bool[Array, "B L"]:
    """False behind a row's last token that is not `pad`. Published models pad with a real token (GPT-2 with the end of a text), so that
    the token counts wherever another one follows."""
    return jnp.flip(jnp.cumsum(jnp.flip(ids != pad, axis=1), axis=1), axis=1) > 0


def config_of(about: Mapping[str, Any]) -> DecoderLM | None:
    """The model of a config.json; None where it is of another kind. Raises DataError for a form that is not supported here."""
    kind = about.get("model_type")
    if kind == "gpt2":
        _supported(
            about, activation_function="gelu_new", scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False,
            add_cross_attention=False,
        )  # fmt: skip
        width = about["n_embd"]
        transformer = TransformerConfig(
            width=width, depth=about["n_layer"], heads=about["n_head"], mlp_dim=about.get("n_inner") or 4 * width,
            activation="gelu_tanh", epsilon=about.get("layer_norm_epsilon", 1e-5),
        )  # fmt: skip
        return DecoderLM(transformer, vocab=about["vocab_size"], length=about["n_positions"])
    if kind not in ("llama", "qwen2"):
        return None
    _supported(about, hidden_act="silu", attention_bias=False, mlp_bias=False, use_sliding_window=False)
    # Newer files hold the rotation's settings in one entry, older ones its base apart, and its scaling in an entry of its own.
    rope = about.get("rope_parameters") or about.get("rope_scaling") or {}
    transformer = TransformerConfig(
        width=about["hidden_size"], depth=about["num_hidden_layers"], heads=about["num_attention_heads"],
        kv_heads=about.get("num_key_value_heads"), head_dim=about.get("head_dim"), mlp_dim=about["intermediate_size"],
        norm_type="rms", epsilon=about.get("rms_norm_eps", 1e-6), activation="swiglu", use_bias="qkv" if kind == "qwen2" else False,
        rotary=_rotary(rope, float(rope.get("rope_theta", about.get("rope_theta", 10_000.0)))),
    )  # fmt: skip
    return DecoderLM(
        transformer, vocab=about["vocab_size"], length=about["max_position_embeddings"], learned_positions=False,
        tied=about.get("tie_word_embeddings", False),
    )  # fmt: skip


def _rotary(rope: Mapping[str, Any], base: float) -> float | ScaledRotary:
    """The rotation of a config.json's entry. Raises DataError for a scaling that is not supported."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return base
    if kind == "linear":
        return ScaledRotary(base, float(rope["factor"]))
    if kind == "llama3":
        return ScaledRotary(
            base, float(rope["factor"]), "llama3", float(rope["low_freq_factor"]), float(rope["high_freq_factor"]),
            int(rope["original_max_position_embeddings"]),
        )  # fmt: skip
    raise DataError(
        f"config.json scales its rotary positions by {kind!r}: only linear and llama3 scaling are supported"
    )


def table(config: DecoderLM) -> tuple[n.Row, ...]:
    """Their names, without "model." or "transformer." in front, <-> our paths."""
    rows = GPT2 if config.learned_positions else LLAMA
    return *rows, TIED_OUTPUT if config.tied else OWN_OUTPUT


def read(arrays: n.Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """A folder of GPT-2, Llama, SmolLM or Qwen2 as an experiment with its parameters; None for other models.

    Raises DataError for a setting that is not supported, and for arrays that do not fit config.json.
    """
    lm = config_of(about)
    if lm is None:
        return None
    bare = {name.removeprefix("transformer.").removeprefix("model."): array for name, array in arrays.items()}
    shapes = jax.eval_shape(lm.module().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), np.int32))["params"]
    params = n.to_params(table(lm), bare, shapes)
    ends = [about.get(f"{name}_token_id") for name in ("pad", "eos")]
    # Some files have several ends of a text.
    pads = [end[0] if isinstance(end, list) else end for end in ends if end is not None]
    data = Data(
        None, (modality.text("text", min(lm.length, LENGTH), lm.vocab),), Tokenizer(lm.vocab, "published", lower=False)
    )
    stops = about.get("eos_token_id")
    found = tuple(stops) if isinstance(stops, list) else () if stops is None else (stops,)
    return Experiment(Config(lm, pads[0] if pads else 0, found), data), params


def _supported(about: Mapping[str, Any], **settings: Any) -> None:
    """Raises DataError where config.json has another value of one of these settings."""
    for name, value in settings.items():
        if about.get(name, value) != value:
            raise DataError(
                f"config.json has {name} {about[name]!r}: only {value!r} is supported for this kind of model"
            )
