import numpy as np
import pytest
import toy

from mmrep.config import Data
from mmrep.data import pipeline
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


def test_a_bad_record_is_replaced_by_the_next_good_one(capsys):
    split = opened(toy.Points(broken=(3,)), max_bad=1)
    assert float(split.good_entry(3, None)["x"][0]) == pytest.approx(4 / 50)
    assert split.bad == {3: "train record 3: points.bin: cannot be read"}
    assert "skipped train record 3: points.bin" in capsys.readouterr().err


def test_too_many_bad_records_stop_with_the_last_name():
    with pytest.raises(
        DataError,
        match=r"train record 3: .* \(1 bad records, 0 allowed: mend the record or raise data.max_bad_records\)",
    ):
        opened(toy.Points(broken=(3,))).good_entry(3, None)
    with pytest.raises(DataError, match="every record of split 'train' is bad"):
        opened(toy.Points(n=3, broken=(0, 1, 2)), max_bad=9).good_entry(0, None)


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
