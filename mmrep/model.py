"""`Model`: a system with its parameters and its data. Users, evaluators, reports and notebooks hold nothing else."""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmrep import modality, paths, raw
from mmrep.config import Data, Experiment, flatten, to_json
from mmrep.data import pipeline
from mmrep.errors import ConfigError, near
from mmrep.modality import Modality
from mmrep.nn import lora
from mmrep.system import Batch, Extras, Infer, Params, System

Fields: TypeAlias = tuple[tuple[str, str], ...]
"""(modality, record field) pairs: take that modality from another field, e.g. (("text", "text_de"),)."""

TokenSet: TypeAlias = tuple[Float[Any, "_ _ _"], Bool[Any, "_ _"]]
"""(token embeddings [N, T, D], valid [N, T]: False for padding)."""


class Model:
    """A trained (or new) system: its functions on raw values, on batches, and on whole splits of its data.

    experiment:    the config.   system: what its last phase builds, unless given.   data: `experiment.data`.
    params:        those that evaluation uses (the average where one is kept).   extras: state that is not learnt by gradient.
    sentencepiece: the serialised tokenizer, a published one too; None: fitted to the data's training text on first use.
    metrics:       of the evaluation after training.   rows: those of metrics.jsonl.
    compilations:  of the training step, over all phases; one for each phase is right.

    >>> model = mmrep.create("clip", "tiny")
    >>> model.embed(text=["a red circle", "a blue square"]).shape
    (2, 32)
    """

    def __init__(
        self,
        experiment: Experiment,
        params: Params,
        extras: Extras | None = None,
        sentencepiece: bytes | None = None,
        *,
        system: System | None = None,
        tokenize: Any = None,
        metrics: Mapping[str, float] | None = None,
        rows: Sequence[Mapping[str, Any]] = (),
        compilations: int = 0,
        place: Callable[[Batch], Batch] | None = None,
        results: Any = None,
    ) -> None:
        """tokenize: (text, length) -> ids, instead of `sentencepiece`.   place: puts this process's rows of a batch on the devices.
        results: the sharding of results on a mesh that spans processes."""
        self.experiment, self.data = experiment, experiment.data
        self.system = system or (experiment.phases[-1].system or experiment.system).build()
        self.params, self.extras = params, {} if extras is None else extras
        self.metrics, self.rows, self.compilations = dict(metrics or {}), list(rows), compilations
        if sentencepiece is not None:
            self.sentencepiece = sentencepiece
        if tokenize is not None:
            self.tokenize = tokenize
        self._place = place
        # Each process gets the whole result where the mesh spans several.
        self._process = (jax.process_index(), jax.process_count()) if results is not None else (0, 1)
        whole: dict[str, Any] = {} if results is None else {"out_shardings": results}
        self._functions = {name: jax.jit(function, **whole) for name, function in self.system.infer.items()}
        self._on_device: Any = (None, None, None)
        self._splits: dict[str, pipeline.Split] = {}
        self._embedded: dict[Any, Any] = {}
        self._token_infer: Any = None
        self._pair_scores: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"Model({self.name}: {self.num_parameters:,} parameters; {', '.join(self.names)})"

    @cached_property
    def sentencepiece(self) -> bytes | None:
        """The serialised tokenizer; None where the data has no text."""
        if self.data.tokenizer is None or self.data.source is None:
            return None
        return pipeline.fit_tokenizer(self.data, [self.data.source], paths.cache() / "tokenizers")

    @cached_property
    def tokenize(self) -> Any:
        """(text, length) -> ids int32 [length], with `decode(ids)`; None where the data has no text."""
        return pipeline.load_tokenizer(self.data, self.sentencepiece)

    # What it is

    @property
    def name(self) -> str:
        """Of the system: the name of its file, of its class, or (a plain System) of its loss, or of its init where it has none."""
        if isinstance(self.experiment.system, System):
            return getattr(self.system.loss or self.system.init, "__name__", "system")
        kind = type(self.experiment.system)
        module = kind.__module__.split(".")
        return module[3] if module[:2] == ["mmrep", "systems"] and len(module) > 3 else kind.__qualname__

    @property
    def names(self) -> tuple[str, ...]:
        """The system's infer functions."""
        return tuple(self.system.infer)

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(x.shape) for x in jax.tree.leaves(self.params))

    @property
    def generates(self) -> bool:
        return self.system.tokens is not None

    def modality(self, name: str) -> Modality:
        """Raises ConfigError with the near names."""
        known = {m.name: m for m in self.data.modalities}
        if name not in known:
            raise ConfigError(f"no modality {name!r}{near(name, known)}")
        return known[name]

    # On raw values

    def embed(self, **values: Any) -> Float[np.ndarray, "N D"]:
        """One vector for each value: `infer["<modality>"]`, or `infer["fused"]` of several modalities together.

        Values are a list, or one value: pictures (PIL, uint8 [H, W, C], floats in [0, 1], or a file's path), texts, waveforms (or a path).

        >>> model.embed(text="a red circle").shape
        (1, 32)
        """
        name = self._of("embed", "", values)
        found = self.call(name, **values)
        if not isinstance(found, np.ndarray) or found.ndim != 2:
            raise ConfigError(f"infer {name!r} of {self.name} is not one vector a row: use model.call({name!r}, ...)")
        return found

    def encode_tokens(self, **values: Any) -> TokenSet:
        """(tokens [N, T, D], valid [N, T]): `infer["<modality>_tokens"]`, or `infer["fused_tokens"]` of several modalities together.

        Raises ConfigError for a system without it.
        """
        tokens, valid = self.call(self._of("encode_tokens", "_tokens", values), **values)
        return tokens, valid

    def features(self, layers: str | Sequence[str] = "all", **values: Any) -> dict[str, Float[np.ndarray, "N D"]]:
        """{layer: [N, D]}, the mean over each layer's tokens: `infer["<modality>_layers"]`, or "fused_layers" of several modalities.

        layers: "all", one name, or several.   Raises ConfigError for a system without layers, or an unknown one.

        >>> sorted(model.features(text=["a star"]))
        ['block00', 'block01', 'pooled', 'tokens']
        """
        found = self.call(self._of("features", "_layers", values), **values)
        if layers == "all":
            return found
        wanted = (layers,) if isinstance(layers, str) else tuple(layers)
        for layer in wanted:
            if layer not in found:
                raise ConfigError(f"no layer {layer!r}{near(layer, found)}")
        return {layer: found[layer] for layer in wanted}

    def similarity(self, images: Any = None, texts: Any = None, /, **values: Any) -> Float[np.ndarray, "N M"]:
        """Similarities of all pairs: the system's own `score` where it has one, else dot products of the embeddings.

        Two positional lists are pictures and texts; other modalities are named: `similarity(text=[...], speech=[...])`.

        >>> import numpy as np
        >>> pictures = np.zeros((3, 32, 32, 3), np.uint8)
        >>> model.similarity(pictures, ["a star"]).shape
        (3, 1)
        """
        if images is not None or texts is not None:
            if values or images is None or texts is None:
                raise ConfigError("similarity takes two lists (pictures, texts), or two named ones")
            values = {self._first("image"): images, self._first("text"): texts}
        if len(values) != 2:
            raise ConfigError(f"similarity takes two modalities, {len(values)} are given: {', '.join(values)}")
        (a, x), (b, y) = values.items()
        if {"score", f"{a}_tokens", f"{b}_tokens"} <= {*self.names}:
            return self.score_matrix(self.encode_tokens(**{a: x}), self.encode_tokens(**{b: y}), names=(a, b))
        return self.embed(**{a: x}) @ self.embed(**{b: y}).T

    def preprocess(self, name: str, value: Any) -> np.ndarray:
        """Raw values as a batch of this model holds them: one array for one value, stacked for a list.

        >>> from PIL import Image
        >>> model.preprocess("image", Image.new("RGB", (50, 40))).shape
        (32, 32, 3)
        """
        m = self.modality(name)
        rows = as_list(m, value)
        single = len(rows) == 1 and not isinstance(value, (list, tuple)) and np.ndim(value) <= len(m.shape)
        encoded = [self._encode(m, row)[name] for row in rows]
        return encoded[0] if single else np.stack(encoded) if encoded else np.zeros((0, *m.shape), m.dtype)

    def tokenizer(self, texts: str | Sequence[str], name: str = "") -> Int[np.ndarray, "N L"]:
        """Token ids of texts, as the text modality `name` (default: the first) has them; `model.tokenize.decode(ids)` is the way back.

        >>> model.tokenizer(["a red circle"])[0, 0]  # BOS
        np.int32(1)
        """
        name = name or self._first("text")
        found = self.preprocess(name, texts)
        return found[None] if found.ndim == 1 else found

    def generate(
        self, targets: str | Sequence[str], *, samples: int = 1, seed: int = 0, **given: Any
    ) -> dict[str, np.ndarray | list[str]]:
        """The target modalities, in order, from the given ones (or from nothing): `generate(["rgb"], caption="a red circle")`.

        samples: of each given value.   Other keywords are settings of the system's decoder, e.g. guidance=3.0, temperature=0.7.
        Returns images as floats [N, H, W, C] in [0, 1] (at the resolution of their tokens), class maps as ids [N, H, W], and a list of texts.
        Raises ConfigError for a system that does not generate.
        """
        infer, wanted = self.tokens(), [targets] if isinstance(targets, str) else list(targets)
        known = {m.name: m for m in self.data.modalities}
        if not wanted:
            raise ConfigError("generate needs targets, e.g. model.generate(['rgb'], caption='a red circle')")
        if samples < 1:
            raise ConfigError(f"samples is {samples}: ask for at least 1")
        settings = {k: v for k, v in given.items() if k not in known}
        rows: list[dict[str, np.ndarray]] = []
        if values := {k: v for k, v in given.items() if k in known}:
            rows = self._short(self._rows("generate", values), values)
            if not rows:
                raise ConfigError(f"generate needs at least one value of {', '.join(values)}")
        batch = pipeline.collate([row for row in rows for _ in range(samples)]) if values else {}
        found = infer.generate(batch, wanted, batch_size=samples, seed=seed, **settings)
        texts = {k for k in found if k in known and known[k].kind == "text"}
        return {k: [self.tokenize.decode(ids) for ids in v] if k in texts else np.asarray(v) for k, v in found.items()}

    def call(self, name: str, /, **values: Any) -> Any:
        """infer[name] of raw values, as numpy arrays [N, ...]: `model.call("reconstruct", rgb=pictures)`. Any of `names`.

        Raises ConfigError for an unknown function or modality, and for lists of unequal lengths; DataError for a value that does not fit.
        """
        if name not in self._functions:
            raise ConfigError(f"{self.name} has no infer function {name!r}{near(name, self.names)}")
        rows = self._short(self._rows(name, values), values)
        if not rows:  # nothing in, nothing out: arrays of 0 rows
            one = modality.example([self.modality(k) for k in values], 1)
            shapes = jax.eval_shape(self.system.infer[name], self.params, self.extras, one)
            return jax.tree.map(lambda s: np.zeros((0, *s.shape[1:]), s.dtype), shapes)
        # A power of two: few shapes to compile, whatever the number of values.
        size = min(self.data.eval_batch_size, 1 << (len(rows) - 1).bit_length())
        parts = []
        for i in range(0, len(rows), size):
            part = rows[i : i + size]
            batch = pipeline.collate(part + [part[-1]] * (size - len(part)))
            try:
                found = self.infer(name, batch)
            except KeyError as error:
                missing = str(error.args[0]) if error.args else ""
                if missing not in {m.name for m in self.data.modalities}:
                    raise
                raise ConfigError(f"infer {name!r} of {self.name} needs {missing!r}, too") from None
            parts.append(jax.tree.map(lambda x, n=len(part): np.asarray(x)[:n], found))  # noqa: B008
        return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)

    def _rows(self, name: str, values: Mapping[str, Any]) -> list[dict[str, np.ndarray]]:
        """Batch entries of each row of raw values."""
        if not values:
            raise ConfigError(f"{name} needs values, e.g. image=[...]; modalities: {self._modalities()}")
        lists = {k: as_list(self.modality(k), v) for k, v in values.items()}
        lengths = {k: len(v) for k, v in lists.items()}
        if len({*lengths.values()}) != 1:
            told = ", ".join(f"{n} of {k}" for k, n in lengths.items())
            raise ConfigError(f"{name} needs equally many values of each modality, found {told}")
        return [
            {k: v for m, value in zip(lists, row) for k, v in self._encode(self.modality(m), value).items()}
            for row in zip(*lists.values())
        ]

    def _short(self, rows: list[dict[str, np.ndarray]], names: Iterable[str]) -> list[dict[str, np.ndarray]]:
        """Rows of a published tokenizer without most of the padding that all of them share: such models take thousands of ids."""
        for name in names:
            pad = getattr(self.tokenize, "pad", None) if rows and self.modality(name).kind == "text" else None
            if pad is None or self.tokenize.fixed:
                continue
            # An id beyond the last word stays: the end of a text may be the padding, too.
            longest = max(int(np.flatnonzero(row[name] != pad).max(initial=-1)) + 2 for row in rows)
            rows = [row | {name: row[name][: 1 << (longest - 1).bit_length()]} for row in rows]
        return rows

    def _encode(self, m: Modality, value: Any) -> dict[str, np.ndarray]:
        if m.kind in ("image", "audio", "video") and isinstance(value, (str, Path)):
            from mmrep.data import decode, videos

            if m.kind == "video":
                return modality.encode(m, videos.video(str(value)), None)
            content, path = decode.read(str(value)), str(value)
            value = decode.image(content, path) if m.kind == "image" else videos.audio(content, path, m.rate)
        return modality.encode(m, value, self.tokenize if m.kind in ("text", "texts") else None)

    def _function(self, *names: str) -> str:
        for name in names:
            if name in self.names:
                return name
        raise ConfigError(f"{self.name} has no infer function {names[0]!r}; it has {', '.join(self.names)}")

    def _of(self, method: str, suffix: str, values: Mapping[str, Any]) -> str:
        """The infer function of these modalities: their own where there is one and the system has it, else that of "fused"."""
        if not values:
            raise ConfigError(f"{method} needs values, e.g. model.{method}(image=[...])")
        for given in values:
            self.modality(given)
        own = f"{next(iter(values))}{suffix}"
        return self._function(own if len(values) == 1 else f"fused{suffix}", f"fused{suffix}")

    def _first(self, kind: str) -> str:
        """The name of the first modality of a kind, preferring one that is called so."""
        found = [m.name for m in self.data.modalities if m.kind == kind]
        if not found:
            raise ConfigError(f"{self.name} has no {kind}; its modalities are {self._modalities()}")
        return kind if kind in found else found[0]

    def _modalities(self) -> str:
        return ", ".join(m.name for m in self.data.modalities)

    # On batches

    def infer(self, name: str, batch: Batch | Mapping[str, np.ndarray]) -> Any:
        """The system's function `name` on a batch. Raises ConfigError with the near names."""
        if name not in self._functions:
            raise ConfigError(f"{self.name} has no infer function {name!r}{near(name, self.names)}")
        return self._functions[name](*self._parameters(), batch)

    def score_pairs(
        self, left: TokenSet, right: TokenSet, rows: Int[np.ndarray, " n"], columns: Int[np.ndarray, " n"],
        block: int = 512, name: str = "score", names: tuple[str, str] = ("image", "text"),
    ) -> Float[np.ndarray, " n"]:  # fmt: skip
        """`infer[name]` of the pairs (left rows[k], right columns[k]), `block` pairs at a time.

        left, right: as `encode_tokens` returns them, of the modalities `names`.   Raises ConfigError for a system without that pair score.
        """
        if (self._function(name), names) not in self._pair_scores:
            self._pair_scores[name, names] = jax.jit(partial(_gathered, self.system.infer[name], names))
        score, found = self._pair_scores[name, names], np.empty(len(rows), np.float32)
        sides = jax.device_put((left, right))
        for start in range(0, len(rows), block):
            at = np.minimum(np.arange(start, start + block), len(rows) - 1)  # the last block is filled up by repetition
            values = score(*self._parameters(), *sides, rows[at], columns[at])
            real = min(block, len(rows) - start)
            found[start : start + real] = np.asarray(values)[:real]
        return found

    def score_matrix(
        self, left: TokenSet, right: TokenSet, block: int = 512, name: str = "score",
        names: tuple[str, str] = ("image", "text"),
    ) -> Float[np.ndarray, "N M"]:  # fmt: skip
        """`score_pairs` of all pairs."""
        n, m = len(left[1]), len(right[1])
        rows, columns = np.divmod(np.arange(n * m), max(m, 1))
        return self.score_pairs(left, right, rows, columns, block, name, names).reshape(n, m)

    def _parameters(self) -> tuple[Params, Extras]:
        """Parameters on the device: those of a file are moved there once."""
        params, extras, moved = self._on_device
        if params is not self.params or extras is not self.extras:
            host = any(isinstance(x, np.ndarray) for x in jax.tree.leaves((self.params, self.extras)))
            moved = jax.device_put((self.params, self.extras)) if host else (self.params, self.extras)
            self._on_device = (self.params, self.extras, moved)
        return moved

    def tokens(self) -> Any:
        """The system's decoder (`System.tokens`), made once. Raises ConfigError for a system that does not generate."""
        if self.system.tokens is None:
            raise ConfigError(f"{self.name} does not generate: its build() gives no `tokens`")
        self._token_infer = self._token_infer or self.system.tokens(*self._parameters())
        return self._token_infer

    # On splits of its data

    def split(self, name: str = "test") -> pipeline.Split:
        """A split of the model's data, opened once."""
        if name not in self._splits:
            self._splits[name] = pipeline.open_split(self.data, self.tokenize, name)
        return self._splits[name]

    def record(self, i: int, split: str = "test") -> Any:
        """The raw record of row i of `embed_split`: the i-th usable one, without training augmentation."""
        opened = self.split(split)
        return opened.record(int(opened.usable()[i]))

    def bad_records(self, split: str = "test") -> int:
        """Bad records of a split that was used, which are left out of its embeddings, labels and candidates."""
        return len(self._splits[split].bad) if split in self._splits else 0

    def records(self, split: str = "test", limit: int = 0) -> list[Any]:
        """The raw usable records of a split (the first `limit`; 0: all), without training augmentation."""
        opened = self.split(split)
        rows = opened.usable()
        return [opened.record(int(i)) for i in (rows[:limit] if limit else rows)]

    def values(self, records: Sequence[Any], names: Sequence[str]) -> dict[str, list[Any]]:
        """{modality: its raw values in these records}, for `call`."""
        return {name: [record[self.modality(name).source] for record in records] for name in names}

    def column(self, field: str, split: str = "test") -> list[Any]:
        """The raw values of a record field over the split."""
        return [record[field] for record in self.records(split)]

    def embed_split(self, name: str, split: str = "test", fields: Fields = ()) -> Any:
        """infer[name] over the whole split, as numpy arrays [N, ...]; cached, since several evaluators use it."""
        key = (name, split, fields)
        if key not in self._embedded:
            parts = []
            size = self.data.eval_batch_size
            for batch, real in pipeline.eval_batches(self.split(split), size, dict(fields), self._process):
                put = batch if self._place is None else self._place(batch)
                parts.append(jax.tree.map(lambda x, n=real: np.asarray(x)[:n], self.infer(name, put)))
            self._embedded[key] = jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
        return self._embedded[key]

    def score_split(
        self, name: str, split: str = "test", left_fields: Fields = (), right_fields: Fields = (),
        names: tuple[str, str] = ("image", "text"),
    ) -> Float[np.ndarray, "N N"]:  # fmt: skip
        """infer[name] of every row of the modality names[0] with every row of names[1] in the split; cached."""
        key = (name, split, left_fields, right_fields, names)
        if key not in self._embedded:
            left = self.embed_split(f"{names[0]}_tokens", split, left_fields)
            right = self.embed_split(f"{names[1]}_tokens", split, right_fields)
            self._embedded[key] = self.score_matrix(left, right, name=name, names=names)
        return self._embedded[key]

    def on(self, data: Any) -> "Model":
        """The same model over other data: a `Data`, or a source whose records have the fields of this model's modalities.

        >>> from mmrep.data.scenes import SceneData
        >>> len(model.on(SceneData(n_test=7)).split("test"))
        7
        """
        data = data if isinstance(data, Data) else dataclasses.replace(self.data, source=data)
        return Model(
            dataclasses.replace(self.experiment, data=data), self.params, self.extras, self.sentencepiece,
            system=self.system, tokenize=self.tokenize,
        )  # fmt: skip

    # To share

    def save(self, path: str | paths.Place, format: str = "", half: bool = False) -> Any:
        """Writes parameters, config and tokenizer to one safetensors file, which `mmrep.load` reads; low-rank adapters are merged first.

        path: local, or a URL, gs://BUCKET/KEY or s3://BUCKET/KEY. It is returned.

        format: "hf" or "open_clip" writes a folder of that library instead (CLIP; "hf" for ViT and BERT shapes, too). A published tokenizer
        comes along. Raises ConfigError for a model that has no such form.
        half: numbers of our own format take two bytes instead of four, rounded to three digits; a model that is loaded has float32 again.

        >>> import tempfile
        >>> path = model.save(tempfile.mkdtemp() + "/clip.safetensors")
        >>> mmrep.load(path).name
        'clip'
        """
        from mmrep.interop import safetensors

        path = paths.at(path)
        if format:
            from mmrep.interop import foreign

            return foreign.write_folder(path, *self._merged(), self.sentencepiece, format)
        if path.suffix != ".safetensors":
            raise ConfigError(f"{path} must end in .safetensors, by which mmrep.load recognises it")
        training = {"step": self.rows[-1]["step"] if self.rows else 0, "metrics": self.metrics}
        safetensors.write(path, *self._merged(), self.extras, self.sentencepiece, half, training)
        return path

    def _merged(self) -> tuple[Experiment, Params]:
        """Experiment and parameters without adapters: params["lora"], in a system whose config has `lora_rank` and `lora_scale`."""
        experiment, last = self.experiment, self.experiment.phases[-1]
        config = last.system or experiment.system
        if not getattr(config, "lora_rank", 0) or "lora" not in self.params:
            return experiment, self.params
        rest = {k: v for k, v in self.params.items() if k != "lora"}
        plain = dataclasses.replace(config, lora_rank=0)
        trainable = tuple(t for t in last.trainable if not t.startswith("lora/"))
        phase = dataclasses.replace(last, system=None, trainable=trainable)
        return (
            dataclasses.replace(experiment, system=plain, phases=(*experiment.phases[:-1], phase)),
            lora.merge(rest, self.params["lora"], config.lora_scale),
        )

    def card(self) -> str:
        """A model card in Markdown: what the model is, its parameters, data, training, results and licence.

        >>> print(model.card().splitlines()[0])
        # clip
        """
        data, system = self.data, self.experiment.system
        counts: dict[str, int] = {}
        for path, x in flatten(self.params).items():
            counts[path.split("/")[0]] = counts.get(path.split("/")[0], 0) + math.prod(x.shape)
        plain = isinstance(system, System)
        about = (system.loss or system.init).__doc__ if plain else sys.modules[type(system).__module__].__doc__
        title = ((about or "").strip().splitlines() or [self.name])[0]
        source = type(data.source).__name__ if data.source is not None else "none given"
        attribution = getattr(data.source, "attribution", ())
        whole, last = self.experiment.steps, int(self.rows[-1]["step"]) if self.rows else 0
        steps = f"{whole:,} steps of {data.batch_size} examples, seed {self.experiment.train.seed}"
        steps = f"{last:,} of {steps}" if 0 < last < whole else steps
        shapes = [f"- `{m.name}`: {m.kind} {list(m.shape)}" for m in data.modalities]
        parts = [f"- `{name}`: {n:,}" for name, n in counts.items()]
        results = ["| {} | {:.4g} |".format(k.replace("|", "\\|"), v) for k, v in self.metrics.items()]
        sections = {
            "Modalities": shapes,
            "Functions": [f"`{'`, `'.join(self.names)}`"],
            f"Parameters: {self.num_parameters:,}": parts,
            "Data": [f"`{source}`", *(f"- {line}" for line in attribution)],
            "Training": [steps if self.rows or self.metrics else f"Not trained here; the config asks for {steps}."],
            "Results": ["| metric | value |", "|---|---|", *results] if results else ["Not evaluated."],
            "Licence": ["Code: Apache-2.0. The weights carry the terms of the data they were trained on."],
            "Config": ["```json", json.dumps(to_json(self.experiment), indent=1, ensure_ascii=False), "```"],
        }
        body = [line for title, lines in sections.items() for line in (f"## {title}", "", *lines, "")]
        return "\n".join([f"# {self.name}", "", title, "", *body])


def _gathered(
    score: Infer,
    names: tuple[str, str],
    params: Params,
    extras: Extras,
    left: TokenSet,
    right: TokenSet,
    i: Array,
    j: Array,
) -> Float[Array, " n"]:
    """`score` of the pairs of rows i on the left and j on the right."""
    pairs = {f"{names[0]}_tokens": left[0][i], f"{names[0]}_valid": left[1][i]}
    return score(params, extras, pairs | {f"{names[1]}_tokens": right[0][j], f"{names[1]}_valid": right[1][j]})


def _is_part(m: Modality, value: Any) -> bool:
    """Whether `value` is one text of a group, or one frame of a video, and so a list of them one value."""
    if m.kind == "texts":
        return isinstance(value, (str, bytes))
    return m.kind == "video" and (raw.is_pil(value) or (isinstance(value, np.ndarray) and value.ndim < len(m.shape)))


def as_list(m: Modality, values: Any) -> list[Any]:
    """The values of a modality as a list: a single value is a list of one, an array with one axis more than a value is split along it.

    A list of frames is one video, a list of texts one group of a modality of groups.

    Raises ConfigError for what is neither.
    """
    if values is None or isinstance(values, Mapping):
        raise ConfigError(f"{m.name} is {type(values).__name__}: give a list of values, or one value")
    if isinstance(values, (str, bytes, Path)) or raw.is_pil(values):
        return [values]
    if isinstance(values, np.generic | np.ndarray | jax.Array):
        rank = len(m.shape) - (m.kind in ("text", "texts"))
        array = np.asarray(values)
        return list(array) if array.ndim > rank else [array if array.ndim else array[()]]
    try:
        found = list(values)
        return [found] if found and _is_part(m, found[0]) else found
    except TypeError:
        if m.shape == ():
            return [values]
        raise ConfigError(f"{m.name} is {type(values).__name__}: give a list of values, or one value") from None
