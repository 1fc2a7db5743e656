"""Captions, answers and code of systems that write texts: greedy, by beams, and among given ones."""

import numpy as np
import pytest

import mmrep
from experiments import generate
from mmrep.errors import ConfigError
from mmrep.modality import EOS

GIVEN = {
    "valor": ("written", ("video=test:1", "sound=test:1")), "coavt": ("written", ("video=test:1", "sound=test:1")),
    "favor": ("written", ("video=test:1", "sound=test:1", "question=test:1")),
    "unival": ("written", ("image=test:1", "prompt=what does the image describe")), "unixcoder": ("completed", ("code=( one plus",)),
}  # fmt: skip


@pytest.mark.parametrize("slug", [pytest.param(n, marks=[] if n == "favor" else pytest.mark.slow) for n in GIVEN])
def test_texts_are_written(slug, tmp_path):
    target, pairs = GIVEN[slug]
    model = mmrep.create(slug, "tiny", seed=0)
    assert target in generate.writers(model)
    given = generate.read_given(model, pairs)
    greedy = generate.written(model, [target], given, 1, ())[target]
    np.testing.assert_array_equal(greedy, model.infer(target, {k: v[None] for k, v in given.items()}))
    texts = [m for m in model.data.modalities if m.kind == "text"]
    some = [
        model.tokenize.decode(row)
        for row in model.tokenizer([model.record(i)[texts[-1].source] for i in range(3)], texts[-1].name)
    ]
    found = generate.written(model, [target], given, 2, some)
    row = found[target][0].tolist()
    assert EOS in row and model.tokenize.decode(found[target][0]) in some
    paths = generate.write(model, found, tmp_path)
    assert paths[0].read_text().strip() in some
    with pytest.raises(ConfigError, match="too: give it|give one"):
        generate.written(model, [target], {}, 1, ())
    with pytest.raises(ConfigError, match=f"did you mean '{target}'"):
        generate.written(model, [target + "s"], given, 1, ())
