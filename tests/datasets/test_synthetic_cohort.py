from __future__ import annotations

import anndata
import numpy as np
import pytest

import stpredict as stp
from stpredict.core._validate import check_counts
from stpredict.io._image import SectionImage, check_positions, microns_per_pixel, section_image

CLASSES = ["tumor", "stroma", "immune", "fat"]


@pytest.fixture(scope="module")
def cohort():
    return stp.datasets.synthetic_cohort(2, 2, 60, n_spots=60)


def sections(adata):
    return adata.obs["sample"].cat.categories


def stains_at(adata, sample, side=60):
    """Mean hematoxylin and eosin around each spot, by color deconvolution."""
    from skimage.color import rgb2hed

    image = section_image(adata, adata, sample)
    xy = adata.obsm["spatial"][(adata.obs["sample"] == sample).to_numpy()]
    result = np.empty((len(xy), 2))
    for index, windows in image.windows(xy, side):
        result[index] = rgb2hed(windows)[..., :2].mean(axis=(1, 2))
    return result


def test_contract(cohort):
    assert cohort.shape == (240, 60)
    assert list(sections(cohort)) == ["P1_S1", "P1_S2", "P2_S1", "P2_S2"]
    assert (cohort.obs["sample"].astype(str).str.split("_").str[0] == cohort.obs["patient"].astype(str)).all()
    assert cohort.obs_names.is_unique
    assert cohort.var_names.is_unique
    assert (cohort.obs.groupby("sample", observed=True).size() == 60).all()
    assert cohort.obs["in_tissue"].all()
    np.testing.assert_allclose(cohort.obs[CLASSES].sum(axis=1), 1)
    assert (cohort.obs["label"].astype(str) == cohort.obs[CLASSES].idxmax(axis=1)).all()
    assert set(cohort.obs["label"].unique()) == set(CLASSES)
    counts = cohort.layers["counts"]
    check_counts(counts)
    assert (counts != cohort.X).nnz == 0
    assert cohort.uns["stpredict"]["synthetic_cohort"]["pitch_um"] == 200
    for sample in sections(cohort):
        entry = cohort.uns["spatial"][sample]
        assert entry["images"]["hires"].dtype == np.uint8
        assert entry["scalefactors"]["tissue_hires_scalef"] == 1
        assert entry["scalefactors"]["spot_diameter_fullres"] == 100
        assert microns_per_pixel(cohort, sample) == 1


def test_gene_names_follow_programs(cohort):
    assert {"TUM001", "STR001", "IMM001", "FAT001", "FLAT001", "RPL3", "MT-CO1"} <= set(cohort.var_names)
    assert cohort.var["signal"].sum() == 45
    assert ((cohort.var["program"] == "flat") == ~cohort.var["signal"]).all()
    assert (cohort.var["program"][cohort.var_names.str.startswith("IMM")] == "immune").all()


def test_written_and_read(cohort, tmp_path):
    cohort.write_h5ad(tmp_path / "cohort.h5ad")
    again = anndata.read_h5ad(tmp_path / "cohort.h5ad")
    assert again.uns["spatial"]["P1_S1"]["scalefactors"]["microns_per_pixel"] == 1
    np.testing.assert_array_equal(again.layers["expected"], cohort.layers["expected"])


@pytest.mark.parametrize(
    ("lattice", "pitch_um", "mpp", "expected"),
    [("square", None, 1.0, 200), ("hex", None, 0.8, 100), ("hex", 80, 1.5, 80)],
)
def test_lattice_pitch(lattice, pitch_um, mpp, expected):
    from scipy.spatial import cKDTree

    adata = stp.datasets.synthetic_cohort(
        1, 1, 5, n_spots=30, lattice=lattice, pitch_um=pitch_um, microns_per_pixel=mpp
    )
    xy = adata.obsm["spatial"]
    nearest = cKDTree(xy).query(xy, k=2)[0][:, 1]
    np.testing.assert_allclose(nearest * mpp, expected)
    row, column = adata.obs["array_row"].to_numpy(), adata.obs["array_col"].to_numpy()
    step = (expected, expected) if lattice == "square" else (expected / 2, expected * np.sqrt(3) / 2)
    for index, values, size in ((column, xy[:, 0], step[0]), (row, xy[:, 1], step[1])):
        np.testing.assert_allclose((values - values[0]) * mpp, (index - index[0]) * size, atol=1e-6)
    if lattice == "hex":
        assert ((row + column) % 2 == 0).all()
    scale = adata.uns["spatial"]["P1_S1"]["scalefactors"]
    assert scale["spot_diameter_fullres"] * scale["microns_per_pixel"] == pytest.approx(
        100 if lattice == "square" else 55
    )


def test_positions_on_tissue(cohort):
    for sample in sections(cohort):
        image = section_image(cohort, cohort, sample)
        xy = cohort.obsm["spatial"][(cohort.obs["sample"] == sample).to_numpy()]
        assert (xy > 50).all()
        assert (xy < np.array([image.width, image.height]) - 50).all()
        check_positions(xy, image, sample)


def test_image_shows_the_tissue(cohort):
    stains = np.concatenate([stains_at(cohort, sample) for sample in sections(cohort)])
    pure = cohort.obs[CLASSES].max(axis=1).to_numpy() > 0.8
    label = cohort.obs["label"].astype(str).to_numpy()
    hematoxylin = {name: stains[pure & (label == name), 0].mean() for name in CLASSES}
    assert min(hematoxylin["tumor"], hematoxylin["immune"]) > hematoxylin["stroma"] > hematoxylin["fat"]
    assert stains[pure & (label == "stroma"), 1].mean() > 2 * stains[pure & (label == "fat"), 1].mean()
    for index, sample in enumerate(sections(cohort)):  # glass around the tissue, and no stain on it
        corner = cohort.uns["spatial"][sample]["images"]["hires"][:20, :20]
        assert corner.mean() > 220, index


@pytest.mark.parametrize("mpp", [0.6, 1.0, 2.5])
def test_image_and_composition_are_aligned(mpp):
    adata = stp.datasets.synthetic_cohort(1, 1, 5, n_spots=60, lattice="hex", microns_per_pixel=mpp)
    cellular = adata.obs["tumor"] + adata.obs["immune"]
    spots = adata.obsm["spatial"].copy()

    def agreement(x, y):
        adata.obsm["spatial"] = spots + np.array([x, y]) / mpp
        return np.corrcoef(stains_at(adata, "P1_S1", round(48 / mpp))[:, 0], cellular)[0, 1]

    here = agreement(0, 0)
    assert here > 0.7
    assert all(agreement(x, y) < here - 0.03 for x, y in [(30, 0), (-30, 0), (0, 30), (0, -30)])


def test_markers_follow_their_class(cohort):
    for name in CLASSES:
        markers = (cohort.var["program"] == name).to_numpy()
        share = cohort.layers["morphology"][:, markers].sum(axis=1)
        assert np.corrcoef(share, cohort.obs[name])[0, 1] > 0.85
        assert np.corrcoef(cohort.X[:, markers].sum(axis=1).A1, cohort.obs[name])[0, 1] > 0.6


def test_flat_genes_hold_no_signal(cohort):
    flat = ~cohort.var["signal"].to_numpy()
    morphology = cohort.layers["morphology"]
    np.testing.assert_allclose(morphology[:, flat], np.broadcast_to(morphology[0, flat], (240, flat.sum())), rtol=1e-5)
    relative = cohort.layers["expected"] / cohort.obs["capture_efficiency"].to_numpy()[:, None]
    np.testing.assert_allclose(relative[:, flat], morphology[:, flat], rtol=1e-4)
    assert (morphology[:, ~flat].std(axis=0) > 0.05 * morphology[:, ~flat].mean(axis=0)).all()


def test_total_counts(cohort):
    np.testing.assert_allclose(cohort.layers["morphology"].sum(axis=1), 2000, rtol=1e-4)
    total = cohort.X.sum(axis=1).A1
    assert total.mean() == pytest.approx(2000, rel=0.1)
    assert (total.std() / total.mean()) ** 2 == pytest.approx(0.1, rel=0.5)


def test_counts_are_poisson_around_expected(cohort):
    rate = cohort.layers["expected"].astype(float)
    score = (cohort.X.toarray() - rate) ** 2 / rate
    assert score[rate > 2].mean() == pytest.approx(1, abs=0.05)


def test_without_any_noise_expected_is_morphology():
    adata = stp.datasets.synthetic_cohort(1, 1, 20, n_spots=20, dispersion=0, depth_dispersion=0)
    np.testing.assert_array_equal(adata.layers["expected"], adata.layers["morphology"])


def test_same_seed_same_cohort_and_streams_of_their_own(cohort):
    small = stp.datasets.synthetic_cohort(1, 1, 60, n_spots=60)
    first = cohort[cohort.obs["sample"] == "P1_S1"]
    np.testing.assert_array_equal(
        small.uns["spatial"]["P1_S1"]["images"]["hires"], cohort.uns["spatial"]["P1_S1"]["images"]["hires"]
    )
    np.testing.assert_array_equal(small.layers["expected"], first.layers["expected"])
    assert (small.X != first.X).nnz == 0
    other = stp.datasets.synthetic_cohort(1, 1, 60, seed=1, n_spots=60)
    assert (small.X != other.X).nnz > 0
    assert not np.array_equal(small.obsm["spatial"], other.obsm["spatial"])


def test_count_parameters_leave_the_image(cohort):
    adata = stp.datasets.synthetic_cohort(1, 1, 12, n_spots=60, dispersion=0.5, neighborhood=1, counts_per_spot=100)
    np.testing.assert_array_equal(
        adata.uns["spatial"]["P1_S1"]["images"]["hires"], cohort.uns["spatial"]["P1_S1"]["images"]["hires"]
    )


@pytest.mark.parametrize("neighborhood", [0, 2])
def test_neighborhood(neighborhood):
    adata = stp.datasets.synthetic_cohort(1, 1, 20, n_spots=60, neighborhood=neighborhood)
    pure = (adata.obs["stroma"] == 1).to_numpy()
    assert pure.sum() > 3
    alike = adata.layers["morphology"][pure][:, adata.var["signal"].to_numpy()]
    spread = (alike.std(axis=0) / alike.mean(axis=0)).max()
    assert spread < 1e-5 if neighborhood == 0 else spread > 0.05


def test_stain_differs_between_patients():
    def mean_color(shift):
        adata = stp.datasets.synthetic_cohort(3, 1, 5, n_spots=4, stain_shift=shift)
        glass = [adata.uns["spatial"][s]["images"]["hires"][:20, :20].mean(axis=(0, 1)) for s in sections(adata)]
        return np.ptp(glass, axis=0).max()

    assert mean_color(0) < 1 < mean_color(0.2)


def test_image_dir(tmp_path, cohort):
    target = tmp_path / "new" / "images"
    adata = stp.datasets.synthetic_cohort(1, 1, 60, n_spots=60, image_dir=target)
    assert sorted(path.name for path in target.iterdir()) == ["P1_S1.png"]
    entry = adata.uns["spatial"]["P1_S1"]
    full = cohort.uns["spatial"]["P1_S1"]["images"]["hires"]
    np.testing.assert_array_equal(SectionImage(entry["metadata"]["source_image_path"]).band(0, len(full)), full)
    small = entry["images"]["hires"]
    assert max(small.shape) == 1000
    assert entry["scalefactors"]["tissue_hires_scalef"] == pytest.approx(1000 / max(full.shape))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="image_dir"):
        stp.datasets.synthetic_cohort(1, 1, 5, n_spots=5, image_dir=tmp_path / "file")


@pytest.mark.parametrize("signal_fraction", [0, 1])
def test_extreme_signal_fractions(signal_fraction):
    adata = stp.datasets.synthetic_cohort(1, 1, 3, n_spots=1, signal_fraction=signal_fraction)
    assert adata.shape == (1, 3)
    assert (adata.var["signal"] == bool(signal_fraction)).all()
    np.testing.assert_allclose(adata.layers["morphology"].sum(), 2000, rtol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_patients": 0},
        {"n_sections": -1},
        {"n_genes": 0},
        {"n_spots": 0},
        {"seed": -1},
        {"counts_per_spot": 0},
        {"microns_per_pixel": -1.0},
        {"microns_per_pixel": np.nan},
        {"pitch_um": 0},
        {"signal_fraction": 1.5},
        {"dispersion": -0.1},
        {"depth_dispersion": np.inf},
        {"neighborhood": -1},
        {"batch": "much"},
        {"stain_shift": 2},
        {"lattice": "triangle"},
    ],
)
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match=f"expected {next(iter(wrong))}.*found"):
        stp.datasets.synthetic_cohort(**wrong)


@pytest.mark.parametrize("name", ["n_patients", "n_spots", "seed"])
def test_fractional_numbers(name):
    with pytest.raises(TypeError, match=f"expected {name} to be a whole number; found 2.5"):
        stp.datasets.synthetic_cohort(**{name: 2.5})
