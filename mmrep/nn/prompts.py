"""Learnt prompts: vectors in front of the token sequence of any Transformer, which needs no change.

    vectors = prompts.init(rng, lambda: features(params, batch), length=8)      # {transformer: [J, M, D]}
    with prompts.prompted(vectors):
        found = features(params, batch)                                         # the shapes it has without prompts

Shallow, J = 1: before the first block (Jia et al. 2022, VPT-shallow, arXiv 2203.12119). Deep, J blocks: each of these has its own vectors, which
replace what the block before it gave in their places (VPT-deep, section 3.2; Khattak et al. 2023, MaPLe). The result leaves them out again.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.nn.transformer import Block, Transformer

Prompts = dict[str, Float[Array, "J M D"]]
"""By the path of the Transformer in its module, joined by dots ("" is "transformer"); the n-th use of one path has "#n" behind it."""

ARGUMENTS = ("x", "mask", "context", "context_mask", "at", "bias", "context_bias", "positions", "cache")


def init(rng: PRNGKeyArray, run: Callable[[], Any], length: int, depth: int = 1) -> Prompts:
    """`length` vectors for each Transformer that `run` calls, uniform in +-sqrt(6 / 2D) (Xavier).

    depth: the first so many blocks have their own (1: shallow; no more than there are).
    Raises ConfigError for a length or depth below 1, where no Transformer is called, and for deep prompts of scanned blocks.
    """
    if length < 1 or depth < 1:
        raise ConfigError(f"prompts: length {length} and depth {depth} must be at least 1")
    shapes: dict[str, tuple[int, int]] = {}

    def record(key: str, module: Transformer) -> None:
        c = module.config
        if c.scan and depth > 1:
            raise ConfigError("deep prompts need separate blocks: set scan=False, or use shallow prompts")
        shapes[key] = (min(depth, c.depth), c.width)

    with nn.intercept_methods(_each_transformer(record)):
        jax.eval_shape(run)
    if not shapes:
        raise ConfigError(
            "prompts: the features are computed without a Transformer, which has tokens to put them before"
        )
    keys = jax.random.split(rng, len(shapes))
    return {
        name: jax.random.uniform(key, (blocks, length, width), jnp.float32, -1, 1) * (3 / width) ** 0.5
        for key, (name, (blocks, width)) in zip(keys, sorted(shapes.items()))
    }


def _each_transformer(visit: Callable[[str, Transformer], None]) -> Any:
    seen: Counter[str] = Counter()

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, Transformer) and context.method_name == "__call__":
            visit(_key(context.module, seen), context.module)
        return call(*args, **kwargs)

    return intercept


def _key(module: Transformer, seen: Counter[str]) -> str:
    path = ".".join(module.path) or "transformer"
    seen[path] += 1
    return path if seen[path] == 1 else f"{path}#{seen[path]}"


@contextlib.contextmanager
def prompted(prompts: Prompts) -> Iterator[None]:
    """Within it the Transformers named in `prompts` have their vectors in front.

    The tokens attend to all of them. They attend to each other, and to the tokens where the mask is the same for every query: under a causal mask,
    or any other that treats queries differently, nothing flows through them from token to token.
    Raises ConfigError for a Transformer with a cache.
    """
    seen: Counter[str] = Counter()
    running: list[tuple[tuple[str, ...], Array]] = []

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if isinstance(module, Transformer):
            vectors = prompts.get(_key(module, seen))
            if vectors is None:
                return call(*args, **kwargs)
            running.append((module.path, vectors))
            given = dict(zip(ARGUMENTS, args)) | kwargs
            try:
                y, out = call(**_with_prompts(given, vectors[0], module.dtype))
            finally:
                running.pop()
            return _without_prompts(y, out, vectors.shape[1], given.get("at") is not None)
        if isinstance(module, Block) and running and module.path[:-1] == running[-1][0]:
            vectors, name = running[-1][1], module.path[-1]
            if name != "blocks" and 0 < (i := int(name.removeprefix("block"))) < len(vectors):
                x, *rest = args
                args = (jnp.concatenate([_rows(vectors[i], x), x[:, vectors.shape[1] :]], axis=1), *rest)
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield


def _rows(vectors: Float[Array, "M D"], x: Float[Array, "B N D"]) -> Float[Array, "B M D"]:
    return jnp.broadcast_to(vectors.astype(x.dtype), (len(x), *vectors.shape))


def _with_prompts(given: dict[str, Any], vectors: Float[Array, "M D"], dtype: Any) -> dict[str, Any]:
    """The arguments of a Transformer for M more tokens in front."""
    if given.get("cache") is not None:
        raise ConfigError("learnt prompts stand before a whole sequence: a Transformer with a cache takes none")
    x, m = given["x"].astype(dtype), len(vectors)
    new = given | {"x": jnp.concatenate([_rows(vectors, x), x], axis=1)}
    if given.get("at") is not None:
        new["at"] = given["at"] + m
    if given.get("positions") is not None:
        new["positions"] = jnp.pad(given["positions"], ((0, 0), (m, 0)))
    for name in ("mask", "bias", "context_mask", "context_bias"):
        if (array := given.get(name)) is None:
            continue
        queries, keys = array.shape[2:]
        if keys > 1 and not name.startswith("context"):
            array = jnp.pad(array, ((0, 0), (0, 0), (0, 0), (m, 0)), constant_values=name == "mask")
        if queries > 1:
            row = array[:, :, :1]
            if name == "mask":
                row = jnp.broadcast_to(jnp.arange(array.shape[3]) < m, row.shape)
            elif name == "bias":
                row = jnp.zeros_like(row)
            array = jnp.concatenate([jnp.repeat(row, m, axis=2), array], axis=2)
        new[name] = array
    return new


def _without_prompts(y: Array, out: dict[str, Any], m: int, one: bool) -> tuple[Array, dict[str, Any]]:
    """The result without the first m tokens.   one: y is one token of each example."""
    return y if one else y[:, m:], {name: x[..., m:, :] for name, x in out.items()}
