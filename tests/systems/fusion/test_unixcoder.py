"""UniXcoder: the authors' modes and beam search, trees and back, and what each objective hides."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.fusion.unixcoder import get_config, parts
from mmrep.config import Data, Experiment, Mesh, Phase, Tokenizer
from mmrep.data.code import ENGLISH, INFIX, PREFIX, Programs, PythonFunctions, bare
from mmrep.data.sources import Table
from mmrep.data.syntax_trees import Tree, flatten, tree, unflatten
from mmrep.errors import ConfigError, DataError
from mmrep.evals.suite import evaluate
from mmrep.generation.text import trie, write
from mmrep.interop import bert
from mmrep.modality import BOS, EOS, PAD
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.decoder_lm import DecoderLM
from mmrep.nn.pooling import mean_pool
from mmrep.systems.fusion.unixcoder import Config, model, run
from mmrep.systems.fusion.unixcoder.evals import Search
from mmrep.systems.fusion.unixcoder.model import HEAD, Task
from mmrep.training import loop

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "unixcoder.npz")
SHAPE = TransformerConfig(width=16, depth=1, heads=2, norm="post", dropout=0.1)
TINY = Config(SHAPE, vocab=20, length=24, write=4)
COMMENT = np.array([[BOS, 5, 6, EOS, PAD, PAD], [BOS, 7, 8, 9, 10, EOS]], np.int32)
CODE = np.array([[BOS, 11, 12, 13, EOS, PAD, PAD, PAD], [BOS, 14, 15, 16, 17, 18, 19, EOS]], np.int32)
BATCH = {"code": CODE, "tree": CODE, "comment": COMMENT}


@pytest.fixture(scope="module")
def made():
    system = TINY.build()
    return system, jax.jit(system.init)(jax.random.key(0), BATCH)[0]


def test_the_authors_encoder_and_decoder():
    about = {
        "model_type": "roberta", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "vocab_size": 30, "max_position_embeddings": 20, "pad_token_id": 1, "type_vocab_size": 1,
    }  # fmt: skip
    arrays = {k[2:]: GOLDEN[k] for k in GOLDEN if k.startswith("w:")}
    experiment, params = bert.read(arrays, about)
    net = DecoderLM(experiment.system.text.transformer, 30, 18, embed_norm=True).module()
    ids = jnp.asarray(bert.swapped(jnp.asarray(GOLDEN["ids"], jnp.int32), 1))
    valid = np.asarray(ids != PAD)
    both = jax.jit(lambda prefix: run(net, {"net": params}, Task(ids, prefix, ids)))
    states = both(jnp.full(3, 9))[1]
    np.testing.assert_allclose(states[valid], GOLDEN["tokens"][valid], atol=2e-5)
    np.testing.assert_allclose(mean_pool(states, jnp.asarray(valid)), GOLDEN["sentence"], atol=2e-5)
    logits, states = both(jnp.zeros(3, jnp.int32))
    np.testing.assert_allclose(states[valid], GOLDEN["causal"][valid], atol=2e-5)
    theirs = GOLDEN["logits"][..., np.r_[1, 0, 2:30]]  # padding is our id 0
    np.testing.assert_allclose(logits[valid], theirs[valid], atol=1e-4)


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
def test_the_authors_beam_search(beams):
    table, start = jnp.asarray(GOLDEN["table"]), jnp.zeros((1, 1), jnp.int32)
    found = write(lambda ids, at: table[at - 1][ids[:, at - 1]], start, 8, ends=lambda ids: ids == 2, beams=beams)
    want = GOLDEN[f"beam{beams}"]
    assert found.ids[0, : len(want)].tolist() == want.tolist()
    np.testing.assert_allclose(found.log_prob[0], GOLDEN[f"beam{beams}_score"], rtol=1e-5)


def test_a_tree_as_words_and_back():
    assert flatten(Tree("parameters", ["(", "data", ")"])) == [
        "<parameters,left>",
        "(",
        "data",
        ")",
        "<parameters,right>",
    ]
    odd = Tree("s", ["", "<s,left>", "a b\n\\e", "\\", Tree("t"), "<", "\\<", "x,right>", "é\u2028"])
    words = flatten(odd)
    assert unflatten(words) == odd and not any(len(w.split()) != 1 for w in words)
    deep = Tree("n")
    for _ in range(5000):
        deep = Tree("n", [deep])
    words = flatten(deep)
    assert len(words) == 10002 and flatten(unflatten(words)) == words
    for cut in (words[:-1], words[1:], ["x"], ["<a,left>", "<b,right>"], ["<a,left>", "<a,right>", "<a,right>"]):
        with pytest.raises(DataError):
            unflatten(cut)


def test_every_function_of_some_modules_comes_back():
    for name in ("textwrap", "json/decoder"):
        source = Path(ast.__file__).parent / f"{name}.py"
        for node in ast.walk(ast.parse(source.read_bytes())):
            if isinstance(node, ast.FunctionDef):
                found = tree(node)
                assert unflatten(flatten(found)) == found
    one = [flatten(tree(ast.parse(code).body[0])) for code in ("x = 1", "x = '1'", "x = y = 1", "x = None", "x: y = 1")]
    assert len({*map(tuple, one)}) == 5


def test_functions_lose_docstrings_and_decorators():
    code = '@a.secret\ndef f(x):\n    "What it does."\n    def g():\n        "Inner."\n    return 1\n'
    assert ast.unparse(bare(ast.parse(code).body[0])) == "def f(x):\n\n    def g():\n        pass\n    return 1"


def files(folder):
    for i in range(8):
        body = f"def f{i}(x, y):\n    'Adds {i} to the sum of x and y.'\n    return x + y + {i} + len(str(x))\n"
        (folder / f"m{i}.py").write_text(body + ("def same(x, y):\n    'Same.'\n    return x * y - x + y - 2\n"))
    (folder / "broken.py").write_text("def f(:\n")
    (folder / "tests").mkdir()
    (folder / "tests" / "t.py").write_text("def test_f(a, b):\n    'No.'\n    return a + b + 1 + 2 + 3\n")


def test_the_functions_of_a_folder(tmp_path):
    files(tmp_path)
    source = PythonFunctions(tmp_path, fractions=(0.5, 0.0, 0.5))
    train, test = source.open("train"), source.open("test")
    whole = [*train, *test]
    assert len(whole) == 9 and len({r["code"] for r in whole}) == 9  # "same" is there once
    assert not {r["package"] for r in train} & {r["package"] for r in test}
    first = next(r for r in whole if r["file"] == "m3.py:1")
    assert first["comment"] == "Adds 3 to the sum of x and y." and "Adds" not in first["code"] + first["tree"]
    assert len(train.digest()) == 16 and train.digest() != test.digest()
    with pytest.raises(DataError, match="not a folder"):
        PythonFunctions(tmp_path / "none").open("train")


def test_the_two_syntaxes_share_no_word():
    source = Programs(200, 40, 60, operators=3, told=5)
    records = source.open("train")
    codes, other, comments = ({w for r in records for w in r[n].split()} for n in ("infix", "prefix", "comment"))
    assert not codes & other and not comments & (codes | other)
    assert len({*INFIX[0], *INFIX[1], *PREFIX[0], *PREFIX[1], *ENGLISH[0], *ENGLISH[1]}) == 60
    first = records[0]
    held_out = [{r["infix"] for r in Programs(500, 40, 60).open(split)} for split in ("train", "val", "test")]
    assert (
        [len(x) for x in held_out[1:]] == [40, 60] and not held_out[0] & held_out[2] and not held_out[1] & held_out[2]
    )
    assert len(first["comment"].split()) == 10 and first["code"] in (first["infix"], first["prefix"])


def test_what_each_mode_sees(made):
    _, params = made
    net = TINY.lm.module()
    ids = np.array([[BOS, 20, EOS, 5, 6, 7, 8, EOS]], np.int32)
    look = jax.jit(lambda ids, prefix: run(net, params, Task(ids, prefix, ids))[0])
    other = ids.copy()
    other[0, 5] = 9
    changed = {p: np.asarray(look(ids, np.array([p])) != look(other, np.array([p])))[0].any(-1) for p in (0, 5, 6, 8)}
    assert changed[0].tolist() == [False] * 5 + [True] * 3  # bit for bit: places before do not move
    assert changed[5].tolist() == [False] * 5 + [True] * 3  # of the target
    assert changed[6].all() and changed[8].all()  # of the source


def test_sequences_of_the_objectives():
    text = jnp.concatenate([COMMENT[:, 1:], CODE[:, 1:]], axis=1)
    whole = model.continued(20, text, 24)
    assert whole.ids[0].tolist() == [BOS, 21, EOS, 5, 6, EOS, 11, 12, 13, EOS] + [PAD] * 14
    assert whole.labels[0].tolist() == [0, 0, 5, 6, EOS, 11, 12, 13, EOS] + [0] * 15 and not whole.prefix.any()
    code, comment = jnp.asarray(CODE[:, 1:]), jnp.asarray(COMMENT[:, 1:])
    pair = model.translated(20, code, comment, 24)
    assert pair.ids[0].tolist() == [BOS, 22, EOS, 11, 12, 13, EOS, 5, 6, EOS] + [PAD] * 14
    assert pair.labels[0].tolist() == [0] * 6 + [5, 6, EOS] + [0] * 15 and pair.prefix.tolist() == [7, 10]
    both = jax.jit(model.commented, static_argnums=(1, 4, 5))
    swapped, straight = both(jax.random.key(0), 20, code, comment, 24, 1.0), pair
    assert swapped.ids[0].tolist()[:7] == [BOS, 22, EOS, 5, 6, EOS, 11]
    np.testing.assert_array_equal(both(jax.random.key(0), 20, code, comment, 24, 0.0).ids, straight.ids)
    hidden = jax.jit(model.masked, static_argnums=(1, 3, 4))(jax.random.key(1), 20, text, 24, 0.5)
    target = np.asarray(hidden.labels != PAD)
    np.testing.assert_array_equal(hidden.labels[target], np.asarray(model.encoded(20, text, 24).ids)[target])
    assert target.any() and not target[:, :HEAD].any()


def test_spans_are_cut_and_put_back():
    ids = np.tile(np.arange(5, 45, dtype=np.int32), (64, 1))
    ids[32:, 20:] = PAD
    noisy = jax.jit(model.denoised, static_argnums=(1, 3, 4, 5))(jax.random.key(0), 50, ids, 80, 0.3, 3)
    for row, prefix, labels, own in zip(*map(np.asarray, (noisy.ids, noisy.prefix, noisy.labels, ids))):
        source, target = row[HEAD:prefix].tolist(), row[prefix:][row[prefix:] != PAD].tolist()
        assert target[-1] == EOS and [*labels[labels != PAD]] == target
        spans: dict[int, list[int]] = {}
        for token in target[:-1]:
            if token >= 53:
                spans[token] = []
            else:
                spans[[*spans][-1]].append(token)
        assert len(spans) == (4 if own[-1] else 2) and [*spans] == sorted(spans) and min(spans) == 53
        assert all(1 <= len(span) <= 5 for span in spans.values())
        back = [t for token in source for t in spans.get(token, [token])]
        assert back == own[own != PAD].tolist()
    lengths = [int((row >= 5).sum()) for row in np.asarray(noisy.labels)]
    assert 4 + 4 <= np.mean(lengths[:32]) <= 4 + 16


def test_the_contrast_is_of_two_dropout_masks(made):
    x = jax.random.normal(jax.random.key(0), (4, 8))
    np.testing.assert_allclose(model.view_loss(x[:2], x[:2] * jnp.array([[1.0], [3.0]]), 1e-3), 0, atol=1e-6)
    same = model.view_loss(jnp.ones((3, 4)), jnp.ones((3, 4)), 0.05)
    np.testing.assert_allclose(same, np.log(3), rtol=1e-5)
    _, params = made
    task = model.encoded(20, jnp.asarray(CODE), 24)
    net = TINY.lm.module()
    look = jax.jit(lambda key: run(net, params, task, key)[1])
    one, two = look(jax.random.key(0)), look(jax.random.key(1))
    assert np.abs(one - two).max() > 1e-3
    for options, sentence in (
        ({"transformer": replace(SHAPE, dropout=0.0)}, "two views"),
        ({"comments": False}, "needs comments"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            replace(TINY, **options).build()


def test_texts_are_searched_for_by_beams_and_among_given_ones(made):
    system, params = made
    wanted = [[12, 13, EOS], [12, 14, 15, EOS], [7, EOS]]
    table = jnp.asarray(trie(wanted, 20))
    for name in ("written", "completed"):
        found = jax.jit(lambda b, n=name: system.infer[n](params, {}, b, beams=3, allowed=table))(BATCH)
        assert found.shape == (2, 4) and all(row[: row.index(EOS) + 1] in wanted for row in found.tolist())
    greedy = jax.jit(lambda b: system.infer["completed"](params, {}, b))(BATCH)
    # The first token is the likeliest behind the prompt, whatever padding is between them.
    net, row = TINY.lm.module(), np.array([[BOS, 21, EOS, 11, 12, 13]], np.int32)
    logits = jax.jit(lambda ids: run(net, params, Task(ids, jnp.zeros(1, jnp.int32), ids))[0])(row)
    assert greedy[0, 0] == logits[0, -1, :20].argmax()


def test_a_table_of_ones_own(tmp_path):
    with open(tmp_path / "t.jsonl", "w") as file:
        for i in range(8):
            row = {"code": f"def f{i}(): return {i}", "tree": f"<f,left> {i} <f,right>", "comment": f"the number {i}"}
            file.write(json.dumps(row | {"split": "train" if i % 4 else "test"}) + "\n")
    source = Table(tmp_path / "t.jsonl", image=None, text=("comment", "code", "tree"))
    config = Experiment(
        replace(TINY, vocab=300, length=60), Data(source, parts(300, 20, 8), Tokenizer(300, "bpe", lower=False), batch_size=4, eval_batch_size=2),
        phases=(Phase(steps=2),), evals=(Search("comment", "code"),), mesh=Mesh(1, 1),
    )  # fmt: skip
    metrics = loop.train(config, progress=False, evaluate=evaluate).metrics
    assert {*metrics} == {"comment->code MRR", "comment->code chance MRR"} and metrics[
        "comment->code chance MRR"
    ] == 0.75
    assert get_config("paper").system.lm.vocab > 51_416
