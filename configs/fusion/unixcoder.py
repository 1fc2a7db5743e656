"""UniXcoder: one Transformer as encoder, decoder and both, over code, syntax trees and comments (Guo et al., ACL 2022)

UniXcoder: Unified Cross-Modal Pre-training for Code Representation, arXiv 2203.03850.
    python -m experiments.train unixcoder
    python -m experiments.prove unixcoder
`small` is trained on the functions of Python's standard library; the proof on made programs in two syntaxes.
Search in your own Python files, by a sentence or by code:
    python -m experiments.embed unixcoder --modality code --split test --out corpora/mine --data.source.path FOLDER \
        --data.source.documented False --data.source.fractions 0 0 1
    python -m experiments.search corpora/mine --query "comment=Return the absolute path."
Comments and completions of code: python -m experiments.generate unixcoder --targets written --given "code=def f(x): return x + 1".
Training data of your own: PythonFunctions(FOLDER), or a Table with text=("comment", "code", "tree"); without trees, field="code" for both.
"""

from typing import Any

from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Tokenizer, Train
from mmrep.data.code import Programs, PythonFunctions
from mmrep.evals.suite import Retrieval
from mmrep.evals.written import Written
from mmrep.modality import Modality, text
from mmrep.nn.config import TransformerConfig
from mmrep.systems.fusion.unixcoder import OBJECTIVES, Config
from mmrep.systems.fusion.unixcoder.evals import Search

SIZES = ("tiny", "small", "paper")
NODES = (
    "FunctionDef", "arguments", "args", "arg", "body", "Return", "Assign", "targets", "Attribute", "Name", "Call", "keywords", "keyword",
    "Constant", "If", "test", "orelse", "Compare", "ops", "comparators", "BinOp", "BoolOp", "values", "UnaryOp", "Expr", "Subscript",
    "Slice", "Tuple", "elts", "List", "Dict", "keys", "For", "While", "Try", "handlers", "ExceptHandler", "finalbody", "Raise", "With",
    "items", "withitem", "AugAssign", "JoinedStr", "FormattedValue", "Lambda", "ListComp", "generators", "comprehension", "Starred",
    "defaults", "kwonlyargs", "kw_defaults", "vararg", "kwarg", "IfExp", "Import", "ImportFrom", "names", "alias", "Yield", "Delete",
)  # fmt: skip
"""Nodes of Python's trees, each of whose two markers is one token."""


def parts(vocab: int, code: int, comment: int) -> tuple[Modality, ...]:
    return text("code", code, vocab), text("tree", code, vocab), text("comment", comment, vocab)


def programs(
    n: int, *, steps: int, batch: int, shape: TransformerConfig, splits: tuple[int, int] = (200, 200), lr: float = 3e-3, **system: Any
) -> Experiment:  # fmt: skip
    """An operator and two numbers, in two syntaxes without a common word; comments state two of the three, and are the same for both."""
    vocab = 96
    options = {"vocab": vocab, "length": 20, "write": 6, "span": 2} | system
    search = Search("code", "code", (("code", "infix"),), (("code", "prefix"),), name="other syntax")
    return Experiment(
        Config(shape, **options),
        Data(Programs(n, *splits), parts(vocab, 7, 6), Tokenizer(vocab, "word"), batch_size=batch, eval_batch_size=200),
        phases=(Phase(steps=steps),), optim=Optim(lr=lr, warmup=min(50, steps // 10), weight_decay=0.01),
        evals=(search, Search("comment", "code")), train=Train(log_every=50),
    )  # fmt: skip


def few(objectives: tuple[str, ...] = OBJECTIVES, **system: Any) -> Experiment:
    shape = TransformerConfig(
        width=48, depth=2, heads=4, dropout=0.1
    )  # norms before each part: a short training needs them
    weights = tuple((name, 1.0) for name in objectives)
    return programs(6000, steps=600, batch=48, shape=shape, objectives=weights, **system)


def functions(
    shape: TransformerConfig, *, vocab: int, length: int, code: int, comment: int, batch: int, optim: Optim, steps: int, **settings: Any
) -> Experiment:  # fmt: skip
    markers = tuple(f"<{name},{side}>" for name in NODES for side in ("left", "right"))
    search = Retrieval("comment", "code", two_way=True), Search("comment", "code"), Search("tree", "code")
    return Experiment(
        Config(shape, vocab, length, write=comment), Data(
            PythonFunctions(), parts(vocab, code, comment), Tokenizer(vocab, "bpe", lower=False, symbols=markers), batch_size=batch,
            eval_batch_size=32,
        ),
        phases=(Phase(steps=steps),), optim=optim, evals=(*search, Written("written", "comment")), **settings,
    )  # fmt: skip


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        shape = TransformerConfig(width=16, depth=1, heads=2, norm="post", dropout=0.1)
        return programs(64, steps=4, batch=8, shape=shape, splits=(16, 16))
    if size == "small":
        shape = TransformerConfig(width=64, depth=2, heads=4, norm="post", dropout=0.1)
        optim = Optim(lr=1e-3, warmup=100)
        return functions(shape, vocab=2048, length=128, code=96, comment=20, batch=16, optim=optim, steps=1500)
    shape = TransformerConfig(width=768, depth=12, heads=12, norm="post", dropout=0.1, scan=True, remat=True)
    optim = Optim(lr=2e-4, warmup=10_000, schedule="linear")
    return functions(
        shape, vocab=51_416, length=1024, code=768, comment=128, batch=1024, optim=optim, steps=800_000,
        sharding=(Rule(".*", "fsdp"),), train=Train(log_every=500),
    )  # fmt: skip


def get_proof() -> Proof:
    without = tuple(name for name in OBJECTIVES if name != "commented")
    arms = {
        "all": few(), "masked only": few(("masked",)), "without generation": few(without), "without comments": few(without, comments=False),
    }  # fmt: skip
    return Proof(
        claim="Comments are the pivot between programming languages: the same program in another syntax is found by an encoder "
        "that is trained on code with its comment, and not by one that never sees comments.",
        metric="other syntax MRR",
        arms=tuple(Arm(name, config) for name, config in arms.items()),
        expects=(
            Expect("all", "without comments", 0.15, "comments join two syntaxes that share no word"),
            Expect("all", "masked only", 0.15, "masked tokens alone do not"),
            Expect("all", "all/other syntax chance MRR", 0.15, "the rank of the other syntax is far above chance"),
            Expect("all", "without generation", 0.0, "the generation of comments adds to what comments beside code give", False),
            Expect("all/comment->code MRR", 0.0, 0.1, "code is found by its comment alone", False),
        ),
        seeds=(10, 11, 12),
        data="expressions in two made syntaxes",
    )  # fmt: skip
