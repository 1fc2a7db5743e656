"""Text -> ids: sentencepiece, trained on the source's own training text and cached by a hash of its training text.

Ids 0..4 are PAD, BOS, EOS, MASK, UNK (`mmrep.modality`); pieces follow. Normalisation (NFKC, case folding) is inside the model,
so the model file alone determines the ids of a text.
"""

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import sentencepiece
from jaxtyping import Int

from mmrep import paths
from mmrep.config import Tokenizer
from mmrep.errors import ConfigError
from mmrep.modality import BOS, EOS, FIRST_PIECE, MASK, PAD, UNK
from mmrep.raw import blank

BYTE_PIECES = 256
_WORD_START = "\u2581"  # what sentencepiece writes for the space before a word
_LEAST_COVERAGE = 0.981  # the trainer refuses to cover less than 0.98 of running text
_LONGEST = (
    2**16
)  # bytes of a training text; the trainer leaves out longer ones, and those with its own character U+2585
_SURROGATE = re.compile("[\ud800-\udfff]")
_MEMO = 2**17  # texts remembered by one tokenizer; a row of 32 ids is 128 bytes


def fit(texts: Iterable[str], config: Tokenizer, cache: paths.Place | None = None) -> bytes:
    """A sentencepiece model (serialised proto) trained on `texts`; equal texts and config give equal bytes.

    `unigram` and `bpe` fall back to bytes, so no text is unknown; `char` and `word` have UNK. `config.vocab` is an upper bound: a
    small corpus may not have that many pieces. All characters of the corpus are covered as long as they take no more than half
    of the room for pieces (all of it for `char`); beyond that the rarest are left to the bytes, down to 98 % of running text.

    Each of `config.symbols` is one id wherever it begins a word, the ids right behind the special ones in the order given.

    cache: folder holding `<hash of texts, config and sentencepiece version>.model`; None trains anew.

    Raises ConfigError for no text, for an unknown kind, and for a vocabulary that is too small, naming the least possible.
    """
    if config.kind not in ("unigram", "bpe", "char", "word"):
        raise ConfigError(f"data.tokenizer.kind is {config.kind!r}: choose from bpe, char, unigram, word")
    for symbol in config.symbols:
        if not symbol or _WORD_START in symbol or len(symbol.split()) != 1 or symbol != symbol.strip():
            raise ConfigError(f"data.tokenizer.symbols has {symbol!r}: a symbol is one word without spaces")
        if config.lower and symbol != symbol.casefold():
            raise ConfigError(
                f"data.tokenizer.symbols has {symbol!r}, but data.tokenizer.lower folds it: write it small"
            )
    if len({*config.symbols}) < len(config.symbols):
        raise ConfigError("data.tokenizer.symbols names a symbol twice")
    # A text that is not UTF-8 is a bad record; it is left to the records to report.
    lines = [line for line in (" ".join(text.split()) for text in texts) if line and not _SURROGATE.search(line)]
    if not lines:
        raise ConfigError("data.tokenizer has no text to train on: the source's texts('train') is empty")
    if not any(_trainable(line) for line in lines):
        raise ConfigError(
            f"data.tokenizer cannot be trained on any of {len(lines)} texts: each is longer than {_LONGEST:,} bytes, holds U+2585, or "
            f"has nothing visible, as the first: {lines[0][:40]!r}"
        )
    path = None if cache is None else cache / f"{_key(lines, config)}.model"
    if path is not None and paths.exists(path) and _loads(model := paths.read(path)):
        return model
    model = _train(lines, config)
    if path is not None:
        _write(path, model)
    return model


def tokenizer(model: bytes, config: Tokenizer) -> "Tokens":
    """The token function of a fitted model. Raises ConfigError where the model is not one of `fit`, or larger than `config.vocab`."""
    tokens = Tokens(model)
    if tokens.vocab > config.vocab:
        raise ConfigError(
            f"the tokenizer model has {tokens.vocab} ids, data.tokenizer.vocab is {config.vocab}: fit it again"
        )
    return tokens


class Tokens:
    """`tokens(text, length)` -> int32 [length]: BOS, pieces, EOS, PAD ...; a long text is cut but keeps its EOS.

    Rows are memoised and read-only. `vocab` is the number of ids in use.
    """

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._pieces = _load(model)
        self.vocab: int = self._pieces.vocab_size()
        self._row = lru_cache(_MEMO)(self._encode)

    def __call__(self, text: str, length: int) -> Int[np.ndarray, " length"]:
        """Raises ConfigError for a length below 2, which has no room for BOS and EOS."""
        return self._row(text, length)

    def _encode(self, text: str, length: int) -> np.ndarray:
        if length < 2:
            raise ConfigError(f"a text of {length} ids has no room for BOS and EOS: use a length of at least 2")
        pieces = self._pieces.encode(text)[: length - 2]
        row = np.full(length, PAD, np.int32)
        row[: len(pieces) + 2] = [BOS, *pieces, EOS]
        row.flags.writeable = False
        return row

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of a row up to its EOS; other special ids are left out, ids beyond the vocabulary become UNK."""
        pieces = []
        for i in np.asarray(ids).tolist():
            if i == EOS:
                break
            if i not in (PAD, BOS, MASK):
                pieces.append(i if 0 <= i < self.vocab else UNK)
        return self._pieces.decode(pieces)

    def piece(self, i: int) -> str:
        """The surface of one id, "▁" marking a word's start; for tables of attention and of codes."""
        return self._pieces.id_to_piece(int(i))

    def __reduce__(
        self,
    ) -> tuple[type["Tokens"], tuple[bytes]]:  # worker processes receive the model, not the C++ handle
        return Tokens, (self.model,)


def _train(lines: Sequence[str], config: Tokenizer) -> bytes:
    rule = "nmt_nfkc_cf" if config.lower else "nmt_nfkc"
    with_bytes = config.kind in ("unigram", "bpe")
    fixed = FIRST_PIECE + len(config.symbols) + (BYTE_PIECES if with_bytes else 0)
    room = config.vocab - fixed
    counts = _characters(lines, rule)
    coverage = 1.0  # a word is unknown or known as a whole
    if config.kind != "word":
        fewest = _characters_for(counts, _LEAST_COVERAGE)
        if room < fewest:
            raise ConfigError(
                f"data.tokenizer.vocab is {config.vocab}: these texts need at least {fixed + fewest} for kind {config.kind!r} "
                f"({fewest} characters make up {_LEAST_COVERAGE:.1%} of them)"
            )
        coverage = _coverage(counts, max(fewest, room if config.kind == "char" else room // 2))
    elif room < 1:
        raise ConfigError(f"data.tokenizer.vocab is {config.vocab}: kind 'word' needs at least {fixed + 1}")
    model = io.BytesIO()
    options: dict[str, Any] = dict(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type=config.kind,
        vocab_size=config.vocab,
        hard_vocab_limit=False,
        character_coverage=coverage,
        byte_fallback=with_bytes,
        normalization_rule_name=rule,
        pad_id=PAD,
        bos_id=BOS,
        eos_id=EOS,
        unk_id=UNK,
        control_symbols=["<mask>"],  # takes the first free id, MASK
        user_defined_symbols=[
            _WORD_START + symbol for symbol in config.symbols
        ],  # with its space, or that would be an id too
        max_sentence_length=_LONGEST,
        num_threads=1,  # sums in another order would give another model
        minloglevel=2,
    )
    try:
        sentencepiece.SentencePieceTrainer.train(**options)
    except RuntimeError as error:
        why = str(error).strip().splitlines()
        raise ConfigError(
            f"data.tokenizer cannot be trained on these {len(lines)} texts ({why[-1] if why else 'no reason given'}): "
            "give more text, or another kind or vocab"
        ) from None
    return model.getvalue()


def _trainable(line: str) -> bool:
    return len(line.encode()) <= _LONGEST and "\u2585" not in line and not blank(line)


def _characters(lines: Iterable[str], rule: str) -> Counter[str]:
    """How often the trainer will count each character."""
    normaliser = sentencepiece.SentencePieceNormalizer(rule_name=rule, add_dummy_prefix=True, escape_whitespaces=True)
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(normaliser.normalize(line))
    return counts


def _characters_for(counts: Counter[str], coverage: float) -> int:
    """How many of the commonest characters make up that share of running text."""
    enough = coverage * counts.total()
    return 1 + sum(sum_ < enough for sum_ in accumulate(n for _, n in counts.most_common()))


def _coverage(counts: Counter[str], kept: int) -> float:
    """The share of running text that the `kept` commonest characters make up."""
    if len(counts) <= kept:
        return 1.0
    inside = sum(n for _, n in counts.most_common(kept))
    return (
        inside - 0.5
    ) / counts.total()  # half a count below: the trainer stops at the first character that reaches it


def _key(lines: Sequence[str], config: Tokenizer) -> str:
    digest = hashlib.sha256()
    major = ".".join(sentencepiece.__version__.split(".")[:2])
    digest.update(f"{config!r} sentencepiece {major}\n".encode())
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:24]


def _load(model: bytes) -> sentencepiece.SentencePieceProcessor:
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise ConfigError("the tokenizer model is not a sentencepiece model: fit it again") from error
    ids = (pieces.pad_id(), pieces.bos_id(), pieces.eos_id(), pieces.piece_to_id("<mask>"), pieces.unk_id())
    if ids != (PAD, BOS, EOS, MASK, UNK):
        raise ConfigError(
            f"the tokenizer model has PAD, BOS, EOS, MASK, UNK at {ids}, not 0 to 4: it was not fitted by mmrep.data.text"
        )
    return pieces


def _loads(model: bytes) -> bool:
    try:
        _load(model)
    except ConfigError:
        return False
    return True


def _write(path: paths.Place, model: bytes) -> None:
    """Whole or not at all, also when several processes write the same file."""
    paths.make(path.parent, "set MMREP_CACHE to a folder that can be written")
    paths.replace(path, model)
