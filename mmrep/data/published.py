"""Tokenizers that others published, from the files beside their weights; token ids equal those of the library that wrote them.

tokenizer.json                               what it describes, through the `tokenizers` library
vocab.txt                                    WordPiece (BERT)
vocab.json and merges.txt                    byte-level BPE (GPT-2, RoBERTa; CLIP, whose last piece of a word ends in </w>)
bpe_simple_vocab_16e6.txt.gz                 the merges of OpenAI's CLIP, from which its vocabulary follows
spiece.model, sentencepiece.bpe.model,
tokenizer.model                              T5 and SigLIP, XLM-R, Llama, through sentencepiece

    packed = pack(folder, kind="bert", pad=0)       # bytes, kept with a model: no library is needed yet
    ids = Published(packed)("a red circle", 16)     # int32 [16]
"""

import base64
import gzip
import html
import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mmrep.errors import ConfigError, DataError

FORMAT = "published-1"
FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
PIECES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
MERGES = "bpe_simple_vocab_16e6.txt.gz"
LONGEST = 10**6  # libraries write 1e30 where a tokenizer has no greatest length
_MEMO = 2**16
_CLIP_MERGES = 48_894  # of OpenAI's list, behind its first line
_CLIP_ENDS = "<|startoftext|>", "<|endoftext|>"
_CLIP_WORDS = r"""|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def pack(folder: Path, kind: str, pad: int | None = None) -> bytes | None:
    """The tokenizer files of a folder as bytes, which `Published` takes; None where there are none.

    kind: the model_type of config.json, or "open_clip".   pad: the id behind a text, where the model has one; None: the tokenizer's own.
    Raises DataError for a file that is not UTF-8 or, of a name in .json, not JSON.
    """
    files: dict[str, str] = {}
    for name in (*FILES, *PIECES, MERGES):
        if not (folder / name).is_file():
            continue
        content = (folder / name).read_bytes()
        try:
            files[name] = base64.b64encode(content).decode() if name in (*PIECES, MERGES) else content.decode()
            if name.endswith(".json"):
                json.loads(files[name])
        except ValueError as error:
            raise DataError(f"{folder / name} cannot be read: {error}") from None
    if {"tokenizer.json", "vocab.txt", "merges.txt", *PIECES, MERGES}.isdisjoint(files):
        return None
    if "tokenizer.json" in files:
        files = {k: v for k, v in files.items() if k.endswith("json") and k != "vocab.json"}
    return json.dumps({"format": FORMAT, "kind": kind, "pad": pad, "files": files}, ensure_ascii=False).encode()


def greatest_length(folder: Path) -> int | None:
    """Of a text in ids, from the tokenizer's or the sentence encoder's settings; None where these have no limit."""
    found = []
    for name, field in (("tokenizer_config.json", "model_max_length"), ("sentence_bert_config.json", "max_seq_length")):
        if (folder / name).is_file():
            try:
                value = json.loads((folder / name).read_text(encoding="utf-8")).get(field)
            except (ValueError, AttributeError) as error:
                raise DataError(f"{folder / name} cannot be read: {error}") from None
            found += [int(value)] if value and value < LONGEST else []
    return min(found, default=None)


def is_packed(model: bytes) -> bool:
    """Whether `pack` made these bytes."""
    return model[:40].startswith(b'{"format": "published-')


def unpack(model: bytes) -> dict[str, bytes]:
    """{file name: content} of what `pack` packed."""
    files = json.loads(model)["files"]
    return {k: base64.b64decode(v) if k in (*PIECES, MERGES) else v.encode() for k, v in files.items()}


class Published:
    """`tokens(text, length)` -> int32 [length]: the text with its special tokens, cut so that these are kept, then `pad`.

    rows: of the model's table of tokens.   `vocab` is one more than the greatest id of the files.
    Raises ConfigError where the library that the files need is not installed, or a length has no room for the special tokens; DataError
    for an id that the model's table does not have.
    """

    def __init__(self, model: bytes, rows: int | None = None) -> None:
        self.model, self._rows = model, rows
        self._about: dict[str, Any] = json.loads(model)
        self._ids = lru_cache(_MEMO)(self._encode)

    def __call__(self, text: str, length: int) -> Int[np.ndarray, " length"]:
        ids = self._ids(text, length)
        return np.pad(ids, (0, length - len(ids)), constant_values=self.pad)

    @cached_property
    def _backend(self) -> "_Json | _Pieces":
        files = self._about["files"]
        if "tokenizer.json" in files or not any(name in files for name in PIECES):
            return _Json(_tokenizer(files, self._about["kind"]), self._about["kind"], self._settings)
        return _Pieces(files, self._about["kind"], self._settings)

    @property
    def _settings(self) -> dict[str, Any]:
        """tokenizer_config.json over special_tokens_map.json."""
        files = self._about["files"]
        return {**json.loads(files.get("special_tokens_map.json", "{}")), **json.loads(files.get("tokenizer_config.json", "{}"))}  # fmt: skip

    @cached_property
    def pad(self) -> int:
        given = self._about["pad"]
        return self._backend.pad if given is None else given

    @property
    def fixed(self) -> bool:
        """Whether the model's texts have one length, as padding is a token for it."""
        return self._about["kind"] == "siglip"

    @cached_property
    def vocab(self) -> int:
        return self._backend.vocab

    def _encode(self, text: str, length: int) -> np.ndarray:
        ids = self._backend.encode(_clean(text, self._about["kind"]), length)
        if self._rows is not None and max(*ids, self.pad) >= self._rows:
            raise DataError(
                f"the tokenizer gives id {max(*ids, self.pad)}, the model's table has {self._rows} rows: put the tokenizer of this model beside it"
            )
        return np.asarray(ids, np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of a row, without special tokens and padding."""
        return self._backend.decode([int(i) for i in np.asarray(ids).tolist() if i != self.pad and 0 <= i < self.vocab])

    def piece(self, i: int) -> str:
        """The surface of one id."""
        return self._backend.piece(int(i))

    def __reduce__(self) -> tuple[type["Published"], tuple[bytes, int | None]]:
        return Published, (self.model, self._rows)


class _Json:
    """The `tokenizers` library."""

    def __init__(self, tokenizer: Any, kind: str, settings: Mapping[str, Any]) -> None:
        self._tokenizer, self._length = tokenizer, 0
        own = tokenizer.padding
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._side = settings.get("truncation_side", "right")
        self._special = tokenizer.num_special_tokens_to_add(False)
        pad = _content(settings.get("pad_token")) or _PADS.get(kind, "")
        found = tokenizer.token_to_id(pad) if pad else None
        self.pad: int = found if found is not None else own["pad_id"] if own else 0
        self.vocab: int = max(tokenizer.get_vocab(True).values()) + 1

    def encode(self, text: str, length: int) -> list[int]:
        if length <= self._special:
            raise _no_room(length, self._special)
        if length != self._length:
            self._tokenizer.enable_truncation(length, direction=self._side)
            self._length = length
        return self._tokenizer.encode(text).ids

    def decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(ids)
        return text.replace("</w>", " ").strip() if getattr(self._tokenizer.model, "end_of_word_suffix", None) else text

    def piece(self, i: int) -> str:
        return self._tokenizer.id_to_token(i) or ""


class _Pieces:
    """sentencepiece, with the special tokens and offsets that the models' libraries add to it."""

    def __init__(self, files: Mapping[str, str], kind: str, settings: Mapping[str, Any]) -> None:
        import sentencepiece

        (model,) = [files[name] for name in PIECES if name in files][:1]
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=base64.b64decode(model))
        except RuntimeError as error:
            raise DataError(
                f"the tokenizer's model is no sentencepiece model ({error}): put its tokenizer.json beside it"
            ) from None
        size = self._pieces.vocab_size()
        if kind == "xlm-roberta":
            # Its vocabulary begins <s> <pad> </s> <unk>; sentencepiece's own begins <unk> <s> </s>.
            self._first, self._last, self.pad = [0], [2], 1
            named = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": size + 1}
            self._shift, self.vocab = 1, size + 2
        else:
            end, llama = self._pieces.eos_id(), kind == "llama"
            before, behind = settings.get("add_bos_token", llama), settings.get("add_eos_token", not llama)
            self._first, self._last = [self._pieces.bos_id()] if before else [], [end] if behind else []
            extra = settings.get("extra_ids", 100) if kind in ("t5", "mt5") else 0
            control = (i for i in range(size) if self._pieces.is_control(i))
            named = {self._pieces.id_to_piece(i): i for i in ([end] if kind == "siglip" else control)}
            named |= {f"<extra_id_{i}>": size + extra - 1 - i for i in range(extra)}
            self._shift, self.vocab = 0, size + extra
            pad = _content(settings.get("pad_token")) or ("</s>" if kind == "siglip" else "<pad>")
            self.pad = named.get(pad, max(self._pieces.pad_id(), 0))
        self._named = named
        self._llama = kind == "llama"
        # SigLIP's words have no punctuation and no upper case.
        self._lower = settings.get("do_lower_case", True) if kind == "siglip" else None
        self._split = re.compile("|".join(map(re.escape, sorted(named, key=len, reverse=True))) or "(?!)")

    def encode(self, text: str, length: int) -> list[int]:
        room = length - len(self._first) - len(self._last)
        if room < 1:
            raise _no_room(length, length - room)
        ids: list[int] = []
        end = 0
        for match in self._split.finditer(text):
            ids += [*self._words(text[end : match.start()], end), self._named[match[0]]]
            end = match.end()
        return [*self._first, *(ids + self._words(text[end:], end))[:room], *self._last]

    def _words(self, text: str, start: int) -> list[int]:
        """Ids of a part that begins at `start` of the whole text."""
        if self._lower is not None:
            text = (text.lower() if self._lower else text).translate(_NO_PUNCTUATION)
        if not self._llama:
            text = " ".join(text.split())
        elif start:
            # sentencepiece puts a space before every part, the library before the first one alone.
            text = text.removeprefix(" ")
        if not self._shift:
            return self._pieces.encode(text)
        return [i + self._shift if i else 3 for i in self._pieces.encode(text)]

    def decode(self, ids: list[int]) -> str:
        kept = [i - self._shift for i in ids if i not in self._named.values()]
        return self._pieces.decode([i for i in kept if 0 <= i < self._pieces.vocab_size()])

    def piece(self, i: int) -> str:
        names = {v: k for k, v in self._named.items()}
        return names.get(i) or self._pieces.id_to_piece(i - self._shift)


def _no_room(length: int, special: int) -> ConfigError:
    return ConfigError(f"a text of {length} ids has no room: this tokenizer adds {special} special tokens; use a greater length")  # fmt: skip


def _content(token: Any) -> str:
    """Settings have a special token as text, or as an entry with its content."""
    return str(token.get("content") or "") if isinstance(token, Mapping) else str(token or "")


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ConfigError(
            "the tokenizer of this folder needs the tokenizers library: pip install --no-deps -r requirements-pretrained.txt, or give token ids to model.infer"
        ) from None
    return tokenizers


def _tokenizer(files: Mapping[str, str], kind: str) -> Any:
    """The library's tokenizer of tokenizer.json, or of the older files."""
    t = _library()
    settings = {**json.loads(files.get("special_tokens_map.json", "{}")), **json.loads(files.get("tokenizer_config.json", "{}"))}  # fmt: skip
    if "tokenizer.json" in files:
        about = json.loads(files["tokenizer.json"])
        rule = about.get("normalizer") or {}
        if rule.get("type") == "BertNormalizer":
            # The settings beside the file decide, as in the library.
            names = {"lowercase": "do_lower_case", "strip_accents": "strip_accents", "handle_chinese_chars": "tokenize_chinese_chars"}  # fmt: skip
            rule |= {ours: settings[theirs] for ours, theirs in names.items() if theirs in settings}
        return t.Tokenizer.from_str(json.dumps(about))
    if "vocab.txt" in files:
        return _word_piece(t, files["vocab.txt"], settings)
    if MERGES in files:
        lines = gzip.decompress(base64.b64decode(files[MERGES])).decode().split("\n")[1 : 1 + _CLIP_MERGES]
        merges = [tuple(line.split()) for line in lines if line]
        letters = sorted(t.pre_tokenizers.ByteLevel.alphabet(), key=_byte_order)
        pieces = [*letters, *(c + "</w>" for c in letters), *("".join(m) for m in merges)]
        ends = ("<start_of_text>", "<end_of_text>") if kind == "open_clip" else _CLIP_ENDS
        return _clip_bpe(t, {piece: i for i, piece in enumerate([*pieces, *ends])}, merges, ends)
    lines = files["merges.txt"].split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    vocab = json.loads(files.get("vocab.json", "{}"))
    if any(m[-1].endswith("</w>") for m in merges):
        return _clip_bpe(t, vocab, merges, _CLIP_ENDS)
    return _byte_bpe(t, vocab, merges, kind, settings)


def _word_piece(t: Any, lines: str, settings: Mapping[str, Any]) -> Any:
    vocab = {token: i for i, token in enumerate(lines.rstrip("\n").split("\n"))}
    special = {
        k: _content(settings.get(f"{k.lower()}_token")) or f"[{k}]" for k in ("UNK", "CLS", "SEP", "PAD", "MASK")
    }
    found = t.Tokenizer(t.models.WordPiece(vocab, unk_token=special["UNK"]))
    found.normalizer = t.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"), lowercase=settings.get("do_lower_case", True),
    )  # fmt: skip
    found.pre_tokenizer = t.pre_tokenizers.BertPreTokenizer()
    found.decoder = t.decoders.WordPiece()
    found.add_special_tokens([v for v in special.values() if v in vocab])
    ends = [(special[k], vocab[special[k]]) for k in ("CLS", "SEP")]
    found.post_processor = t.processors.TemplateProcessing(single=f"{ends[0][0]} $A {ends[1][0]}", special_tokens=ends)
    return found


def _clip_bpe(t: Any, vocab: Mapping[str, int], merges: Sequence[Any], ends: tuple[str, str]) -> Any:
    start, end = ends
    model = t.models.BPE(
        dict(vocab), list(merges), continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=end
    )
    found = t.Tokenizer(model)
    n, p = t.normalizers, t.pre_tokenizers
    found.normalizer = n.Sequence([n.NFC(), n.Replace(t.Regex(r"\s+"), " "), n.Lowercase()])
    found.pre_tokenizer = p.Sequence(
        [
            p.Split(t.Regex("|".join(map(re.escape, ends)) + _CLIP_WORDS), behavior="removed", invert=True),
            p.ByteLevel(add_prefix_space=False),
        ]
    )
    found.decoder = t.decoders.ByteLevel()
    found.add_special_tokens([start, end])
    found.post_processor = t.processors.RobertaProcessing((end, vocab[end]), (start, vocab[start]), False, False)
    return found


def _byte_bpe(t: Any, vocab: Mapping[str, int], merges: Sequence[Any], kind: str, settings: Mapping[str, Any]) -> Any:
    if kind not in ("gpt2", "roberta"):
        raise ConfigError(
            f"vocab.json and merges.txt do not say how {kind!r} splits words: put its tokenizer.json beside them"
        )
    found = t.Tokenizer(t.models.BPE(dict(vocab), list(merges), continuing_subword_prefix="", end_of_word_suffix=""))
    space = settings.get("add_prefix_space", False)
    found.pre_tokenizer = t.pre_tokenizers.ByteLevel(add_prefix_space=space)
    found.decoder = t.decoders.ByteLevel()
    if kind == "gpt2":
        found.add_special_tokens([w for w in ("<|endoftext|>",) if w in vocab])
        return found
    names = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    found.add_special_tokens([w for w in names if w in vocab])
    found.post_processor = t.processors.RobertaProcessing(("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]), True, space)
    return found


def _byte_order(letter: str) -> tuple[bool, int]:
    """GPT-2's order of its 256 letters: bytes with a visible character first, each as itself."""
    return ord(letter) > 255, ord(letter)


def _clean(text: str, kind: str) -> str:
    """What a model's library does to a text before its tokenizer."""
    if kind == "open_clip":
        fix = _ftfy()
        return " ".join(html.unescape(html.unescape(fix(text))).split()).strip().lower()
    return text


# Of libraries whose settings leave it out.
_PADS = {"clip": "<|endoftext|>", "roberta": "<pad>", "bert": "[PAD]", "qwen2": "<|endoftext|>"}
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _ftfy() -> Callable[[str], str]:
    try:
        import ftfy
    except ImportError:
        raise ConfigError(
            "open_clip repairs texts with ftfy before its tokenizer: pip install --no-deps -r requirements-pretrained.txt, or give token ids to model.infer"
        ) from None
    return ftfy.fix_text
