import numpy as np
import pytest
import toy

from mmrep.config import Data
from mmrep.data import pipeline, splits
from mmrep.errors import ConfigError, DataError
from mmrep.modality import vector


def opened(source=None, max_bad=0, split="train"):
    return pipeline.open_split(Data(source or toy.Points(), (vector("x", 2),), max_bad_records=max_bad), None, split)


def numbers(batches, n):
    return [np.round(next(batches)["x"][:, 0] * 50).astype(int) for _ in range(n)]


def test_every_record_once_an_epoch_and_each_epoch_in_its_own_order():
    rows = np.concatenate(numbers(pipeline.train_batches(opened(), 10, seed=1), 10))
    assert sorted(rows[:50]) == list(range(50)) == sorted(rows[50:])
    assert not np.array_equal(rows[:50], rows[50:])


def test_the_batch_is_a_function_of_seed_and_step():
    first = [next_ for _, next_ in zip(range(9), pipeline.train_batches(opened(), 8, seed=1))]
    late = pipeline.train_batches(opened(), 8, seed=1, start=5)
    for want in first[5:]:
        assert np.array_equal(next(late)["x"], want["x"])
    other = next(pipeline.train_batches(opened(), 8, seed=2))
    assert not np.array_equal(other["x"], first[0]["x"])


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_one_global_batch(count):
    whole = pipeline.train_batches(opened(), 8, seed=0)
    shares = [pipeline.train_batches(opened(), 8, seed=0, process=(i, count)) for i in range(count)]
    for _ in range(8):
        assert np.array_equal(np.concatenate([next(s)["x"] for s in shares]), next(whole)["x"])
    with pytest.raises(ConfigError, match="does not divide over 3 processes"):
        pipeline.train_batches(opened(), 8, seed=0, process=(0, 3))


def test_evaluation_reads_the_split_once_in_order_and_pads_the_last_batch():
    batches = list(pipeline.eval_batches(opened(split="test"), 5))
    assert [n for _, n in batches] == [5, 5, 2] and all(b["x"].shape == (5, 2) for b, _ in batches)
    rows = np.concatenate([b["x"][:n, 0] for b, n in batches])
    np.testing.assert_allclose(rows * 50, np.arange(12), atol=1e-5)


def test_a_batch_holds_no_record_twice_over_the_edges_of_epochs():
    """F6: 100 records in batches of 64 repeated up to 11 records in every second batch."""
    for n, size in ((10, 10), (10, 7), (13, 4), (5, 1)):
        batches = pipeline.train_batches(opened(toy.Points(n=n)), size, seed=3)
        rows = numbers(batches, 4 * (n // size))
        assert all(len({*r.tolist()}) == size for r in rows)
        epochs = np.concatenate(rows).reshape(4, -1)
        assert all(len({*e.tolist()}) == n // size * size for e in epochs)  # no record twice in an epoch either
        assert len({*np.concatenate(rows).tolist()}) == n  # what one epoch leaves out comes in another


def test_a_batch_larger_than_the_split_is_refused():
    with pytest.raises(
        ConfigError, match=r"data.batch_size is 64, but split 'train' has 50 records: set .* to 50 or less"
    ):
        pipeline.train_batches(opened(), 64, seed=0)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_row_of_a_bad_record_goes_to_a_record_that_the_batch_lacks(count, capsys):
    """The same for any number of processes."""
    broken = (3, 7, 8, 20)

    def batches(processes):
        source = toy.Points(n=21, broken=broken)
        shares = [
            pipeline.train_batches(opened(source, len(broken)), 8, seed=5, process=(i, processes))
            for i in range(processes)
        ]
        return [np.concatenate([numbers(s, 1)[0] for s in shares]) for _ in range(6)]

    for mine, whole in zip(batches(count), batches(1)):
        np.testing.assert_array_equal(mine, whole)
        assert len({*whole.tolist()}) == 8 and not {*whole.tolist()} & {*broken}
    assert "skipped train record 3: points.bin" in capsys.readouterr().err


def test_the_other_rows_stay_where_a_bad_record_is_replaced():
    clean = numbers(pipeline.train_batches(opened(toy.Points(n=21)), 8, seed=5), 6)
    mended = numbers(pipeline.train_batches(opened(toy.Points(n=21, broken=(3,)), 1), 8, seed=5), 6)
    for a, b in zip(clean, mended):
        assert (a[a != 3] == b[a != 3]).all()


def test_too_few_usable_records_for_a_batch_are_one_sentence():
    with pytest.raises(DataError, match="data.batch_size is 3, but only 2 records of split 'train' are usable"):
        next(pipeline.train_batches(opened(toy.Points(n=3, broken=(1,)), max_bad=1), 3, seed=0))


def test_too_many_bad_records_stop_with_the_last_name():
    with pytest.raises(
        DataError,
        match=r"train record 3: .* \(1 bad records, 0 allowed: mend the record or raise data.max_bad_records\)",
    ):
        list(pipeline.eval_batches(opened(toy.Points(broken=(3,))), 8))
    with pytest.raises(DataError, match="every record of split 'train' is bad"):
        opened(toy.Points(n=3, broken=(0, 1, 2)), max_bad=9).usable()


def test_bad_records_are_left_out_of_evaluation():
    """F8: embeddings, labels and candidates are those of the same records."""
    split = opened(toy.Points(n=12, broken=(0, 5)), max_bad=2)
    batches = list(pipeline.eval_batches(split, 8))
    assert [real for _, real in batches] == [8, 2]
    rows = np.concatenate([b["x"][:n, 0] for b, n in batches])
    assert split.usable().tolist() == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11] == np.round(rows * 50).astype(int).tolist()
    assert sorted(split.bad) == [0, 5]


class Told(list):
    """Records with several captions."""

    def open(self, split):
        return self

    def view(self, record, rng):
        return splits.select(record, rng)


def test_all_captions_of_a_picture_with_their_owner():
    records = Told([{"text": ("a", "b")}, {"text": "c"}, {"text": ("d", "e", "f")}])
    texts, owner = pipeline.Split(Data(None, ()), records, records, None, "test").captions("text")
    assert texts == ["a", "b", "c", "d", "e", "f"] and owner.tolist() == [0, 0, 1, 2, 2, 2]
    assert records.view(records[0], None) == {"text": "a"}
    with pytest.raises(DataError, match=r"no field 'txt' \(did you mean 'text'"):
        pipeline.Split(Data(None, ()), records, records, None, "test").captions("txt")


def test_empty_and_unknown_splits_and_absent_fields_are_told():
    with pytest.raises(DataError, match="split 'empty' of Points is empty"):
        opened(split="empty")
    data = Data(toy.Points(), (vector("x", 2, field="y"),))
    with pytest.raises(DataError, match="no field 'y' for modality 'x'; it has number, x"):
        pipeline.open_split(data, None, "train").entry(0)


@pytest.mark.parametrize("processes", [2, 4])
def test_evaluation_rows_of_several_processes_are_those_of_one(processes):
    split = pipeline.open_split(toy.experiment().data, None, "test")  # 12 records: the last batch of 8 is half full
    whole = list(pipeline.eval_batches(split, 8))
    shares = [list(pipeline.eval_batches(split, 8, process=(i, processes))) for i in range(processes)]
    assert [real for _, real in whole] == [8, 4] == [real for _, real in shares[0]]
    for step, (batch, _) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([s[step][0]["x"] for s in shares]), batch["x"])
    with pytest.raises(ConfigError, match="data.eval_batch_size 8 does not divide over 3 processes"):
        next(pipeline.eval_batches(split, 8, process=(0, 3)))
