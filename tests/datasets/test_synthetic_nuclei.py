from __future__ import annotations

import numpy as np
import pytest

import stpredict as stp
from stpredict.encoders._segment_nuclei import stain_densities


def test_the_truth_lies_on_dark_pixels_whatever_the_resolution():
    for mpp in (0.5, 1.0):
        image, nuclei = stp.datasets.synthetic_nuclei(200, microns_per_pixel=mpp, seed=3)
        hematoxylin = stain_densities(image)[0]
        at = hematoxylin[nuclei["y"].astype(int), nuclei["x"].astype(int)]
        assert len(nuclei) > 30
        assert np.mean(at > np.median(hematoxylin) + 0.2) > 0.95
    assert set(nuclei["kind"].cat.categories) <= {"tumor", "lymphocyte", "fibroblast", "adipocyte"}


def test_more_are_drawn_at_higher_density():
    numbers = [len(stp.datasets.synthetic_nuclei(200, density=density, seed=4)[1]) for density in (0.0, 0.4, 1.0, 2.5)]
    assert numbers[0] == 0
    assert numbers == sorted(set(numbers))


def test_a_seed_decides():
    first, again, other = (stp.datasets.synthetic_nuclei(120, microns_per_pixel=1.0, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1].equals(again[1])
    assert first[0].shape != other[0].shape or (first[0] != other[0]).any()


@pytest.mark.parametrize("options", [{"density": -1.0}, {"microns_per_pixel": 0}, {"stain_shift": 2.0}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"expected {next(iter(options))}"):
        stp.datasets.synthetic_nuclei(200, **options)
