"""The sensors that look from above: what each tells, and what it cannot."""

import numpy as np

from mmrep.data.scenes import landcover, masks, optical, radar
from mmrep.data.scenes.source import SceneData
from mmrep.data.scenes.world import COLOURS, LIGHTS, MATERIALS, WorldSpec, sample, take

SIZE = 32
SPEC = WorldSpec(n_objects=(1, 3), materials=MATERIALS, overlap=True)


def test_radar_does_not_see_colour_clouds_or_night_and_optics_no_material():
    s = sample(0, np.arange(20), SPEC)
    dark = s._replace(light=np.full(20, LIGHTS.index("night")), colour=(s.colour + 1) % len(COLOURS))
    np.testing.assert_array_equal(radar.radar(s, SIZE), radar.radar(dark, SIZE))
    assert optical.optical(dark, SIZE).mean() < 0.3 * optical.optical(s, SIZE).mean()
    other = s._replace(material=1 - s.material)
    np.testing.assert_array_equal(optical.optical(s, SIZE), optical.optical(other, SIZE))
    assert not np.array_equal(radar.radar(s, SIZE), radar.radar(other, SIZE))


def test_clear_pixels_have_the_spectrum_of_their_colour():
    s = sample(1, np.arange(60), WorldSpec(n_objects=(1, 1), colours=("red", "blue")))
    picture = optical.optical(s, SIZE, grain=0.0)
    clear = (optical.clouds(s, SIZE) == 0) & (masks.instances(s, SIZE) > 0)
    redness = picture[..., 2].astype(float) - picture[..., 0]
    red = (s.colour[:, 0] == COLOURS.index("red"))[:, None, None]
    assert redness[clear & red].min() > 20 > redness[clear & ~red].max()
    covered = optical.clouds(s, SIZE) == 1
    assert 0.005 < covered.mean() < 0.5 and len(np.unique(picture[covered][:, 0] // 64)) <= 2


def test_speckle_is_multiplicative_with_mean_one_and_variance_one_over_looks():
    s = sample(2, np.arange(40), WorldSpec(n_objects=(1, 1), materials=("shiny",)))
    clean = radar.backscatter(s, SIZE)
    seen = 10 ** ((radar.radar(s, SIZE, looks=4) / 255.0 * 30 - 26) / 10)
    inside = clean[..., 0] == np.median(clean[masks.instances(s, SIZE) > 0][:, 0])
    ratio = (seen / clean)[inside][:, 0]
    np.testing.assert_allclose(ratio.mean(), 1, atol=0.05)
    assert 0.15 < ratio.var() < 0.27  # 1 / 4, less what is clipped at 4 dB
    still = 10 ** ((radar.radar(s, SIZE, looks=0) / 255.0 * 30 - 26) / 10)
    np.testing.assert_allclose(still[..., 0], clean[..., 0], rtol=0.02)
    assert not np.array_equal(radar.radar(s, SIZE, seed=1), radar.radar(s, SIZE, seed=2))


def test_walls_are_bright_towards_the_radar_and_dim_behind():
    s = sample(3, np.arange(1), WorldSpec(n_objects=(1, 1), shapes=("square",), rotation=0.0))
    row = radar.backscatter(s, SIZE)[0, int(s.y[0, 0] * SIZE), :, 0]
    at = np.nonzero(masks.instances(s, SIZE)[0, int(s.y[0, 0] * SIZE)])[0]
    assert row[at[0]] > 1.5 * row[at[len(at) // 2]] > 1.5 * row[at[-1]]


def test_landcover_is_colour_and_material():
    s = sample(4, np.arange(30), SPEC)
    cover, shown = landcover.landcover(s, SIZE), masks.instances(s, SIZE)
    np.testing.assert_array_equal(cover > 0, shown > 0)
    for i in range(30):
        for k in np.unique(shown[i][shown[i] > 0]) - 1:
            expected = 1 + 2 * s.colour[i, k] + s.material[i, k]
            assert (cover[i][shown[i] == k + 1] == expected).all() and expected < landcover.CLASSES


def test_maps_of_a_scene_do_not_depend_on_its_company_and_weather_keeps_its_scale():
    s = sample(5, np.arange(8), SPEC)
    for sensor in (optical.optical, radar.radar):
        np.testing.assert_array_equal(sensor(s, 16, 3)[5:], sensor(take(s, slice(5, None)), 16, 3))
    one, two = optical.clouds(s, 24), optical.clouds(s, 48)
    step = lambda x: np.abs(np.diff(x, axis=2))[x[:, :, 1:] > 0].mean()  # noqa: E731
    assert 0.5 < step(two) / step(one) < 2


def test_the_source_gives_all_three():
    data = SceneData(4, 2, 2, size=16, sensors=("optical", "radar", "landcover"), world=SPEC)
    record = data.open("train")[0]
    assert {k: record[k].shape for k in data.sensors} == {
        "optical": (16, 16, 6), "radar": (16, 16, 2), "landcover": (16, 16)
    }  # fmt: skip
