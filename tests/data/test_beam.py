"""A large set is prepared through TFDS's Beam support and read back at random; skipped where apache_beam is not installed."""

import io

import numpy as np
import pytest
from PIL import Image

from mmrep.data.scenes import SceneData
from mmrep.data.tfds_source import TFDS

beam = pytest.importorskip("apache_beam")
tfds = pytest.importorskip("tensorflow_datasets")
SCENES = SceneData(20, n_val=6, n_test=6, size=16)


def example(split, i):
    """(key, features) of one record, made wherever a Beam worker is."""
    record = SCENES.open(split)[i]
    png = io.BytesIO()
    Image.fromarray(record["rgb"]).save(png, "png")
    return i, {"image": io.BytesIO(png.getvalue()), "text": record["caption"]}


class BeamScenes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {"image": tfds.features.Image(shape=(16, 16, 3)), "text": tfds.features.Text()}
        )
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager):
        sizes = {"train": SCENES.n_train, "test": SCENES.n_test}
        return {s: beam.Create(range(n)) | beam.Map(lambda i, s=s: example(s, i)) for s, n in sizes.items()}

    def _generate_examples(self):
        raise NotImplementedError("the splits are Beam transforms")


def test_beam_writes_what_the_source_reads(tmp_path):
    builder = BeamScenes(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(beam_runner="DirectRunner"))
    for split, n in (("train", 20), ("test", 6)):
        records = TFDS(str(builder.data_path)).open(split)
        truth = {SCENES.open(split)[i]["caption"]: SCENES.open(split)[i]["rgb"] for i in range(n)}
        found = [records[i] for i in range(len(records))]
        assert len(found) == n and {r["text"] if isinstance(r["text"], str) else r["text"][0] for r in found} == set(
            truth
        )
        for r in found:
            np.testing.assert_array_equal(r["image"], truth[r["text"] if isinstance(r["text"], str) else r["text"][0]])
