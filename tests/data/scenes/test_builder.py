import numpy as np
import pytest

from mmrep.data.scenes import CaptionSpec, Noise, SceneData
from mmrep.data.scenes.source import SENSORS
from mmrep.errors import DataError

builder = pytest.importorskip("mmrep.data.scenes.builder", reason="tensorflow_datasets is not installed")


@pytest.mark.parametrize("caption", [CaptionSpec(), CaptionSpec(synonyms=0.5, variants=2, languages=("en", "de"))])
def test_array_record_holds_what_the_source_gives(tmp_path, caption):
    data = SceneData(n_train=40, n_val=7, n_test=0, sensors=tuple(SENSORS), caption=caption, noise=Noise(0.3), size=16)
    prepared = builder.Prepared(data, str(tmp_path))
    with pytest.raises(DataError, match="not prepared"):
        prepared.open("train")
    builder.builder(data, str(tmp_path)).download_and_prepare()
    for split, n in (("train", 40), ("val", 7)):
        records = prepared.open(split)
        assert len(records) == n
        for a, b in zip(records, data.open(split)):
            assert a.keys() == b.keys()
            for name in a:
                assert type(a[name]) is type(b[name]), name
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)
                assert getattr(a[name], "dtype", None) == getattr(b[name], "dtype", None), name
    assert list(prepared.texts("val")) == list(data.texts("val"))
    assert (
        prepared.view(prepared.open("train")[3], None)["caption"] == data.view(data.open("train")[3], None)["caption"]
    )
    with pytest.raises(DataError, match="set n_test"):
        prepared.open("test")
    with pytest.raises(DataError, match="not prepared"):
        builder.Prepared(SceneData(size=16), str(tmp_path)).open("train")
