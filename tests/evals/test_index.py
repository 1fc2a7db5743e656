"""The corpus on disk and its indexes, against brute force."""

import contextlib

import numpy as np
import pytest

from mmrep.errors import ConfigError, DataError
from mmrep.evals import index


@pytest.fixture(autouse=True)
def _one_thread():
    """OpenMP's threads spin while they wait, which costs minutes on a busy machine."""
    with contextlib.suppress(ImportError):
        import faiss

        faiss.omp_set_num_threads(1)


def clustered(n=3000, d=16, seed=0):
    """Unit vectors around 30 centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((30, d))
    x = centres[rng.integers(0, 30, n)] + 0.3 * rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def corpus(folder, vectors, size=700, **more):
    about = {"records": len(vectors), "shard_size": size, "modality": "image"}
    ids = np.arange(len(vectors)) * 10  # record numbers need not be rows
    written = index.write(folder, about, lambda a, b: (ids[a:b], vectors[a:b]), say=lambda _: None, **more)
    return index.Corpus(folder), written


def brute(vectors, queries, k):
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    rows = np.argsort(-scores, axis=1)[:, :k]
    return rows * 10, np.take_along_axis(scores, rows, 1)


def test_exact_search_is_brute_force(tmp_path):
    pytest.importorskip("faiss")
    vectors, queries = clustered(), clustered(20, seed=1)
    found = index.build(corpus(tmp_path / "c", vectors)[0]).search(queries, 10)
    ids, scores = brute(vectors, queries, 10)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    few = index.build(corpus(tmp_path / "few", vectors[:3])[0]).search(queries, 10)
    assert few.ids.shape == (20, 3)


def test_approximate_search_finds_most_and_all_with_every_list_probed(tmp_path):
    pytest.importorskip("faiss")
    vectors, queries = clustered(), clustered(50, seed=1)
    made, _ = corpus(tmp_path / "c", vectors)
    exact = index.build(made)
    ivf = index.build(made, "ivf", lists=32, probe=32)
    np.testing.assert_array_equal(ivf.search(queries).ids, brute(vectors, queries, 10)[0])
    assert 0.8 < index.recall(index.build(made, "ivf"), exact, queries) <= 1.0
    # Compressed to a byte for 4 float32: the order within a cluster blurs, the neighbourhood stays.
    pq = index.build(made, "ivfpq", lists=16, probe=16, codes=8)
    assert 0.4 < index.recall(pq, exact, queries) < index.recall(ivf, exact, queries)
    kept = tmp_path / "c" / "ivf32-flat.faiss"
    stamp = kept.stat().st_mtime_ns
    index.build(made, "ivf", lists=32)
    assert kept.stat().st_mtime_ns == stamp  # trained once


def test_a_cut_run_goes_on_and_a_torn_shard_never_shows(tmp_path):
    vectors, calls = clustered(), []

    def cut(low, high):
        calls.append(low)
        if low == 1400:
            raise KeyboardInterrupt
        return np.arange(low, high), vectors[low:high]

    about = {"records": 3000, "shard_size": 700}
    with pytest.raises(KeyboardInterrupt):
        index.write(tmp_path, about, cut, say=lambda _: None)
    with pytest.raises(DataError, match="lacks 3 of 5 shards, first 2"):
        list(index.Corpus(tmp_path).read())
    assert calls == [0, 700, 1400]
    again = []
    written = index.write(
        tmp_path, about, lambda a, b: (again.append(a), (np.arange(a, b), vectors[a:b]))[1], say=lambda _: None
    )
    assert written == 3 and again == [1400, 2100, 2800]
    np.testing.assert_array_equal(np.concatenate([x for _, x in index.Corpus(tmp_path).read()]), vectors)
    with pytest.raises(ConfigError, match="holds another corpus"):
        index.write(tmp_path, about | {"shard_size": 100}, cut)


def test_hosts_share_the_shards(tmp_path):
    vectors = clustered()
    assert [corpus(tmp_path, vectors, part=(i, 2))[1] for i in (0, 1, 0)] == [3, 2, 0]
    np.testing.assert_array_equal(np.concatenate([x for _, x in index.Corpus(tmp_path).read()]), vectors)


def test_damage_and_impossible_indexes_are_told(tmp_path):
    pytest.importorskip("faiss")
    made, _ = corpus(tmp_path / "c", clustered(300))
    with pytest.raises(ConfigError, match="--index 'ivff' is unknown"):
        index.build(made, "ivff")
    with pytest.raises(ConfigError, match="codes 5 must divide the dimension 16"):
        index.build(made, "ivfpq", codes=5)
    with pytest.raises(ConfigError, match="the queries have 3 dimensions"):
        index.build(made).search(np.ones((1, 3), np.float32))
    with pytest.raises(ConfigError, match="200 vectors are too few"):
        index.build(corpus(tmp_path / "small", clustered(200))[0], "ivfpq")
    path = tmp_path / "c" / "embeddings-00000.npy"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="shard 0 of .* is damaged"):
        index.build(made)
    with pytest.raises(DataError, match="holds no corpus"):
        index.Corpus(tmp_path)


def test_codes_are_ranked_by_hamming_distance_over_packed_bits(tmp_path):
    codes = np.where(np.random.default_rng(0).random((40, 12)) < 0.5, -1.0, 1.0).astype(np.float32)
    index.write(tmp_path / "c", {"records": 40, "shard_size": 16}, lambda a, b: (np.arange(a, b), codes[a:b]))
    built = index.build(index.Corpus(tmp_path / "c"))
    assert built.bits == 12 and built.faiss.ntotal == 40 and built.faiss.code_size == 2
    hits = built.search(codes[:5], 40)
    expected = codes[:5] @ codes.T
    np.testing.assert_array_equal(hits.scores, np.take_along_axis(expected, hits.ids, 1))
    np.testing.assert_array_equal(hits.scores, -np.sort(-expected, 1))
    with pytest.raises(ConfigError, match="use one space"):
        built.search(codes[:1] * 0.5)
    with pytest.raises(ConfigError, match="corpus 12"):
        built.search(codes[:1, :8])
