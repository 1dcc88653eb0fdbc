from __future__ import annotations

from functools import lru_cache

import anndata
import numpy as np
import pytest

import stpredict as stp
from stpredict.datasets import _bulk, _mixture, _pyramid
from stpredict.datasets._tissue import plan_slide, tissue_mask
from stpredict.slots._checks import check_patients

tifffile = pytest.importorskip("tifffile")
CLASSES = ["tumor", "stroma", "immune", "fat"]
SMALL = {"slide_um": 900, "margin_um": 100, "microns_per_pixel": 2.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("slides")


@pytest.fixture(scope="module")
def slides(folder):
    return stp.datasets.synthetic_slides(5, 2, 120, image_dir=folder, **SMALL)


@lru_cache
def layouts(n):
    """Habit, and composition of the tiles, of slides that are not drawn."""
    found = []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        layout = plan_slide(1800.0, 200.0, rng)
        habit = _mixture.draw_habit(rng)
        classes = _mixture.arrange(tissue_mask(layout, 8.0, rng), 8.0, 1800.0, habit, rng)
        found.append((habit, _mixture.composition_of_tiles(classes, 8.0, layout.size_um)))
    return found


def test_contract(slides):
    assert slides.shape == (10, 120)
    assert list(slides.obs_names[:3]) == ["P1_S1", "P1_S2", "P2_S1"]
    assert (slides.obs["sample"].astype(str) == slides.obs_names).all()
    assert (slides.obs["patient"].astype(str) == slides.obs_names.str.split("_").str[0]).all()
    np.testing.assert_allclose(slides.obs[CLASSES].sum(axis=1), 1)
    assert slides.obs[["contact", "core"]].to_numpy().min() >= 0
    assert slides.obs[["contact", "core"]].to_numpy().max() <= 1
    assert slides.X.dtype == np.float32
    assert np.isfinite(slides.X).all()
    assert slides.X.min() >= 0
    log_expression = np.log2(slides.X + 1)
    assert 3 < np.median(log_expression) < 7
    assert log_expression.max() < 13.5
    assert slides.obs["event"].dtype == bool
    assert (slides.obs["time"] > 0).all()
    per_patient = slides.obs.groupby("patient", observed=True)[["time", "event", "log_hazard"]].nunique()
    assert (per_patient == 1).all(axis=None)
    for values in (slides.X, slides.layers["expected"]):
        assert (values[::2] == values[1::2]).all()
    assert slides.uns["stpredict"]["synthetic_slides"]["microns_per_pixel"] == 2
    check_patients(slides)


def test_genes(slides):
    var = slides.var
    assert var.index.is_unique
    assert {"TUM001", "STR001", "IMM001", "FAT001", "RESP001", "HYP001", "FLAT001"} <= set(var.index)
    assert ((var["program"] == "flat") == ~var["signal"]).all()
    assert var["signal"].sum() == 90
    counts = var["gene_type"].value_counts()
    assert counts["protein_coding"] == 96
    assert (counts[["lncRNA", "miRNA", "processed_pseudogene", "misc_RNA"]] > 0).all()
    flat = slides[:, ~var["signal"]]
    np.testing.assert_allclose(flat.layers["expected"], flat.layers["expected"][:1].repeat(10, axis=0), rtol=1e-5)
    assert (flat.varm["context"] == 0).all(axis=None)


def test_slides_are_pyramids_with_microns_per_pixel(slides):
    for path in slides.obs["path"][:2]:
        with tifffile.TiffFile(path) as file:
            shapes = [page.shape for page in file.pages]
            assert len(shapes) >= 2
            assert all(page.is_tiled and page.tilewidth == 256 for page in file.pages)
        assert max(shapes[-1]) <= 256
        assert abs(shapes[0][0] / shapes[1][0] - 2) < 0.02
        openslide = pytest.importorskip("openslide")
        with openslide.OpenSlide(path) as slide:
            assert [dimension[::-1] for dimension in slide.level_dimensions] == [shape[:2] for shape in shapes]
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(2.0)
            corner = np.asarray(slide.read_region((0, 0), 0, (30, 30)))[..., :3]
        assert corner.min() > 200  # glass
        image = tifffile.imread(path)
        assert 0.3 < (image.min(axis=2) < 200).mean() < 0.95  # tissue


@pytest.mark.parametrize("mpp", [0.37, 1.0, 4.0])
def test_wsidata_reads_the_scale(tmp_path, mpp):
    wsidata = pytest.importorskip("wsidata")
    image = np.full((620, 700, 3), 240, np.uint8)
    image[:300, :, 1] = 90
    _pyramid.write_pyramid(tmp_path / "slide.tif", image, mpp)
    for reader in ("openslide", "tiffslide"):
        slide = wsidata.open_wsi(tmp_path / "slide.tif", reader=reader, store=None)
        assert slide.properties.mpp == pytest.approx(mpp, rel=1e-4)
        assert slide.properties.n_level == 3
        assert tuple(slide.properties.shape) == (620, 700)
        read = np.asarray(slide.reader.get_region(0, 0, 700, 620, level=0))[..., :3].astype(int)
        assert np.abs(read - image)[5:290].mean() < 3


def test_deflate_without_imagecodecs(tmp_path, monkeypatch):
    image = np.random.default_rng(0).integers(0, 255, (300, 400, 3)).astype(np.uint8)
    monkeypatch.setattr(_pyramid, "find_spec", lambda name: None)
    _pyramid.write_pyramid(tmp_path / "slide.tif", image, 1.0)
    assert (tifffile.imread(tmp_path / "slide.tif") == image).all()
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(tmp_path / "slide.tif") as slide:
        assert (np.asarray(slide.read_region((0, 0), 0, (400, 300)))[..., :3] == image).all()


def test_slides_stay_when_patients_are_added(slides, folder, tmp_path):
    few = stp.datasets.synthetic_slides(2, 1, 120, image_dir=tmp_path / "new" / "folder", **SMALL)
    for sample in few.obs_names:
        ours, theirs = (tifffile.imread(data.obs.loc[sample, "path"]) for data in (few, slides))
        assert (ours == theirs).all()
        composition = [data.uns["synthetic_slides"]["composition"][sample] for data in (few, slides)]
        assert (composition[0] == composition[1]).all()
    # Errors and survival do not depend on who else is there.
    single = stp.datasets.synthetic_slides(3, 1, 120, image_dir=tmp_path, **SMALL)
    assert (single[:2].X == few.X).all()
    assert (single.obs["time"][:2] == few.obs["time"]).all()
    other = stp.datasets.synthetic_slides(1, 1, 120, 1, image_dir=tmp_path / "other", **SMALL)
    assert not np.allclose(other.X, few.X[:1])


def test_genes_and_errors_do_not_change_the_slides(slides, tmp_path):
    other = stp.datasets.synthetic_slides(1, 1, 30, image_dir=tmp_path, noise=0, batch=0, interaction=0, **SMALL)
    assert (tifffile.imread(other.obs["path"].iloc[0]) == tifffile.imread(slides.obs["path"].iloc[0])).all()
    np.testing.assert_allclose(other.X, other.layers["expected"], rtol=1e-5)
    assert (other.varm["context"] == 0).all(axis=None)


def test_composition_is_that_of_the_picture(slides):
    """Stained area and nuclei of each tile, from pixels, against what the truth says."""
    told = 0
    for sample in slides.obs_names[::2]:
        image = tifffile.imread(slides.obs.loc[sample, "path"]).astype(float)
        composition = slides.uns["synthetic_slides"]["composition"][sample]
        assert composition.dtype == np.float32
        assert composition.shape == (*(int(np.ceil(side / 64)) for side in image.shape[:2]), 4)
        rows, columns = (side // 64 for side in image.shape[:2])
        tiles = image[: rows * 64, : columns * 64].reshape(rows, 64, columns, 64, 3)
        glass = image[:20, :20].mean(axis=(0, 1))
        stained = np.clip(glass - tiles.mean(axis=(1, 3)), 0, None).sum(axis=-1)
        dense = composition[:rows, :columns, :3].sum(axis=-1)
        assert np.corrcoef(stained.ravel(), dense.ravel())[0, 1] > 0.8
        density = -np.log(tiles.mean(axis=(1, 3)) / glass)
        filled = composition[:rows, :columns].sum(axis=-1) > 0.9
        cells = composition[:rows, :columns][filled][:, [0, 2]].sum(axis=-1)
        if cells.std() > 0.2:  # a slide of tumor alone tells nothing
            told += 1
            assert np.corrcoef(density[filled][:, 0], cells)[0, 1] > 0.8
        assert stained[composition[:rows, :columns].sum(axis=-1) == 0].max() < 12
        assert composition.sum(axis=-1).max() <= 1 + 1e-5
    assert told >= 2


def test_composition_of_tiles_against_brute_force():
    rng = np.random.default_rng(3)
    classes = rng.integers(-1, 4, (45, 70)).astype(np.int8)
    found = _mixture.composition_of_tiles(classes, 3.0, (205.0, 128.0), 32.0)
    assert found.shape == (4, 7, 4)
    row, column = (((np.arange(n) + 0.5) * 3 // 32).astype(int) for n in classes.shape)
    for i in range(4):
        for j in range(7):
            part = classes[np.ix_(row == i, column == j)]
            area = (row == i).sum() * max((column == j).sum(), 32 / 3 if j == 6 else 0)
            area *= max(1, 32 / 3 / (row == i).sum()) if i == 3 else 1
            for index in range(4):
                assert found[i, j, index] == pytest.approx((part == index).sum() / area, rel=1e-5)


def test_shares_are_met_and_spread():
    habits, tiles = zip(*layouts(120)[:60], strict=True)
    sums = np.stack([composition.sum(axis=(0, 1)) for composition in tiles])
    shares = sums / sums.sum(axis=1, keepdims=True)
    wanted = np.stack([habit.shares for habit in habits])
    assert np.abs(shares - wanted).max() < 0.02
    assert (shares.std(axis=0) > 0.1).all()
    # The arrangement varies beside the shares.
    contact = np.array([_mixture.contact_of_slide(composition) for composition in tiles])
    product = np.column_stack([shares, shares[:, 0] * shares[:, 2]])
    design = np.column_stack([np.ones(60), product[:, [0, 2, 4]]])
    rest = contact - design @ np.linalg.lstsq(design, contact, rcond=None)[0]
    assert rest.std() > 0.05
    attraction = [habit.attraction + habit.infiltration for habit in habits]
    assert np.corrcoef(rest, attraction)[0, 1] > 0.3


def test_contact_and_core_of_known_layouts():
    composition = np.zeros((6, 6, 4), np.float32)
    composition[1:5, 1:3, 0] = 1
    composition[1:5, 3:5, 2] = 1
    assert _mixture.contact_of_slide(composition) == 0
    composition[1:5, 2, 0], composition[1:5, 2, 2] = 0.8, 0.2
    assert _mixture.contact_of_slide(composition) == pytest.approx(4 / 16)
    pure = np.zeros((5, 5, 4), np.float32)
    pure[..., 0] = 1
    np.testing.assert_allclose(_mixture.core_of_tiles(pure), 1)  # glass beside it does not count
    pure[:, 3:] = [0, 1, 0, 0]
    core = _mixture.core_of_tiles(pure)
    np.testing.assert_allclose(core[2], [1, 1, 1 / 3, 0, 0], atol=1e-6)
    assert _mixture.contact_of_slide(np.zeros((3, 3, 4))) == 0


def test_bulk_is_the_mean_of_the_tiles(slides, folder, tmp_path):
    composition = slides.uns["synthetic_slides"]["composition"]
    for patient in (0, 3):
        total, area = 0.0, 0.0
        for sample in slides.obs_names[2 * patient : 2 * patient + 2]:
            tiles = stp.datasets.expected_tiles(slides, sample)
            tissue = composition[sample].sum(axis=-1)
            assert tiles.shape == (*tissue.shape, slides.n_vars)
            assert (np.isnan(tiles[..., 0]) == (tissue == 0)).all()
            total = total + np.nansum(tiles * tissue[..., None], axis=(0, 1), dtype=float)
            area += tissue.sum(dtype=float)
        np.testing.assert_allclose(slides.layers["expected"][2 * patient], total / area, rtol=1e-4)
    # Selected genes and slides, and a file, keep the truth.
    part = slides[["P2_S1"], ["HYP001", "IMM002"]].copy()
    part.write_h5ad(tmp_path / "slides.h5ad")
    again = anndata.read_h5ad(tmp_path / "slides.h5ad")
    whole = stp.datasets.expected_tiles(slides, "P2_S1")[..., slides.var_names.get_indexer(part.var_names)]
    np.testing.assert_allclose(stp.datasets.expected_tiles(again, "P2_S1"), whole, rtol=1e-5)


def test_tile_expression_against_a_loop():
    genes = _bulk.draw_bulk_genes(14, 0.9, 1.5, np.random.default_rng(0))
    composition = np.random.default_rng(1).dirichlet(np.ones(5), (4, 5))[..., :4]
    contact, core = _mixture.contact_of_slide(composition), _mixture.core_of_tiles(composition)
    found = _bulk.tile_expression(composition, genes.profile, genes.context)
    for i in range(4):
        for j in range(5):
            share = composition[i, j] / composition[i, j].sum()
            factor = 1 + contact * genes.context[:, 0] + core[i, j] * genes.context[:, 1]
            np.testing.assert_allclose(found[i, j], genes.profile @ share * factor)
    weight = composition.sum(axis=-1)
    mean = (found * weight[..., None]).sum(axis=(0, 1)) / weight.sum()
    np.testing.assert_allclose(_bulk.bulk_expression(composition, genes), mean)


def test_context_programs_need_more_than_the_shares():
    genes = _bulk.draw_bulk_genes(140, 1.0, 1.0, np.random.default_rng(0))
    tiles = [composition for _, composition in layouts(120)[:60]]
    shares = np.stack([composition.sum(axis=(0, 1)) for composition in tiles])
    shares = shares / shares.sum(axis=1, keepdims=True)
    expected = np.stack([_bulk.bulk_expression(composition, genes) for composition in tiles])
    rest = expected - shares @ np.linalg.lstsq(shares, expected, rcond=None)[0]
    unexplained = rest.var(axis=0) / expected.var(axis=0)
    own = np.isin(genes.program, CLASSES)
    assert unexplained[own].max() < 1e-6
    assert unexplained[genes.program == "response"].min() > 0.05
    assert unexplained[genes.program == "hypoxia"].min() > 0.02


def test_errors_have_the_asked_size():
    expected = np.full(4000, 40.0)
    loading = np.random.default_rng(0).normal(0, 1, 4000)
    error = [
        np.log2(_bulk.draw_bulk(expected, 0.3, batch, loading, np.random.default_rng(seed)) + 1) - np.log2(41)
        for batch, seed in ((0.0, 1), (0.5, 1))
    ]
    assert error[0].std() == pytest.approx(0.3, rel=0.05)
    shared = error[1] - error[0]
    assert abs(np.corrcoef(shared, loading)[0, 1]) > 0.999
    assert _bulk.draw_bulk(np.zeros(50), 3.0, 0, np.zeros(50), np.random.default_rng(0)).min() == 0


@pytest.mark.parametrize("censoring", [0.0, 0.35, 0.7])
def test_survival_follows_the_hazard(censoring):
    effects = np.array([0.7, -0.5, -0.5])
    tiles = [composition for _, composition in layouts(120)]
    sums = np.stack([composition.sum(axis=(0, 1)) for composition in tiles])
    shares = sums / sums.sum(axis=1, keepdims=True)
    contact = [_mixture.contact_of_slide(composition) for composition in tiles]
    covariates = np.column_stack([shares[:, 0], shares[:, 2], contact])
    hazard = np.array([_bulk.log_hazard(row, effects) for row in covariates])
    assert abs(hazard.mean()) < 0.3  # the constants describe the slides
    assert 0.9 < hazard.std() < 1.6
    hazard = np.tile(hazard, 10)
    rng = np.random.default_rng(0)
    time, event = np.array([_bulk.draw_survival(value, effects, censoring, rng) for value in hazard]).T
    assert 1 - event.mean() == pytest.approx(censoring, abs=0.06)
    event = event.astype(bool)
    earlier = event[:, None] & (time[:, None] < time)
    concordance = (hazard[:, None] > hazard)[earlier].mean()
    assert 0.7 < concordance < 0.82


@pytest.mark.parametrize("gradient", ["x", "ridge"])
def test_gradient(tmp_path, gradient):
    adata = stp.datasets.synthetic_slides(
        3, 1, 40, image_dir=tmp_path, slide_um=1800, microns_per_pixel=4, gradient=gradient
    )
    for sample, composition in adata.uns["synthetic_slides"]["composition"].items():
        tissue = composition.sum(axis=(0, 2))
        columns = np.flatnonzero(tissue > 1)
        share = composition[:, columns, 0].sum(axis=0) / tissue[columns]
        # The tissue reaches from margin_um to the width less margin_um, up to its frayed edge.
        left, right = 200, tifffile.imread(adata.obs.loc[sample, "path"]).shape[1] * 4 - 200
        along = ((columns + 0.5) * 128 - left) / (right - left)
        wanted = np.interp(along, *_mixture.GRADIENTS[gradient])
        assert np.average(np.abs(share - wanted), weights=tissue[columns]) < 0.03
        if gradient == "ridge":
            center = (share**4 * columns).sum() / (share**4).sum()
            assert abs((center + 0.5) * 128 - (left + 0.6 * (right - left))) < 128
    free = stp.datasets.synthetic_slides(1, 1, 40, image_dir=tmp_path, slide_um=400, microns_per_pixel=4)
    assert (free.varm["profile"] == adata.varm["profile"]).all(axis=None)  # a model of one serves the other


def test_only_our_own_files_are_replaced(tmp_path):
    small = {"slide_um": 300, "microns_per_pixel": 4}
    first = stp.datasets.synthetic_slides(2, 1, 10, image_dir=tmp_path, **small)
    before = [tifffile.imread(path) for path in first.obs["path"]]
    stp.datasets.synthetic_slides(1, 1, 10, 1, image_dir=tmp_path, **small)
    assert tifffile.imread(first.obs["path"].iloc[0]).shape != before[0].shape
    assert sorted(path.name for path in tmp_path.iterdir()) == ["P1_S1.tif", "P2_S1.tif"]

    # Cut files, as of another program that is still writing: the pointer to the first page leads nowhere.
    whole = (tmp_path / "P1_S1.tif").read_bytes()
    for foreign in (b"notes", b"", whole[:8], whole[:12]):
        (tmp_path / "P2_S1.tif").write_bytes(foreign)
        kept = (tmp_path / "P1_S1.tif").read_bytes()
        with pytest.raises(FileExistsError, match="found another file"):
            stp.datasets.synthetic_slides(2, 1, 10, image_dir=tmp_path, **small)
        assert (tmp_path / "P2_S1.tif").read_bytes() == foreign
        assert (tmp_path / "P1_S1.tif").read_bytes() == kept
    tifffile.imwrite(tmp_path / "P2_S1.tif", np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(FileExistsError, match="P2_S1"):
        stp.datasets.synthetic_slides(2, 1, 10, image_dir=tmp_path, **small)
    (tmp_path / "P2_S1.tif").unlink()
    (tmp_path / "P2_S1.tif").mkdir()
    with pytest.raises(FileExistsError, match="P2_S1"):
        stp.datasets.synthetic_slides(2, 1, 10, image_dir=tmp_path, **small)


def test_a_failed_write_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "slide.tif"
    _pyramid.write_pyramid(path, np.full((600, 600, 3), 9, np.uint8), 1.0)
    before = path.read_bytes()

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(tifffile.TiffWriter, "write", broken)
    with pytest.raises(OSError, match="disk full"):
        _pyramid.write_pyramid(path, np.zeros((600, 600, 3), np.uint8), 1.0)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_patients": 0}, "n_patients to be at least 1"),
        ({"slides_per_patient": 0}, "slides_per_patient to be at least 1"),
        ({"n_genes": 0}, "n_genes"),
        ({"seed": -1}, "seed"),
        ({"slide_um": 100}, "at least 256"),
        ({"slide_um": np.nan}, "slide_um"),
        ({"margin_um": -1}, "margin_um"),
        ({"microns_per_pixel": 0}, "microns_per_pixel"),
        ({"signal_fraction": 1.2}, "signal_fraction"),
        ({"interaction": -1}, "interaction"),
        ({"noise": -0.1}, "noise"),
        ({"batch": np.inf}, "batch"),
        ({"stain_shift": 2}, "stain_shift"),
        ({"hazard": (1, 2)}, "three numbers"),
        ({"hazard": "high"}, "three numbers"),
        ({"hazard": (1, 2, np.nan)}, "three numbers"),
        ({"censoring": 1}, "below 1"),
        ({"censoring": -0.2}, "censoring"),
        ({"gradient": "y"}, "gradient to be one of 'x', 'ridge'"),
    ],
)
def test_bad_numbers(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        stp.datasets.synthetic_slides(image_dir=tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()


def test_other_errors(slides, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="found a file"):
        stp.datasets.synthetic_slides(1, image_dir=tmp_path / "file")
    with pytest.raises(TypeError, match="whole number"):
        stp.datasets.synthetic_slides(1.5, image_dir=tmp_path)
    with pytest.raises(TypeError, match="image_dir"):
        stp.datasets.synthetic_slides(1)
    with pytest.raises(KeyError, match="P9_S9"):
        stp.datasets.expected_tiles(slides, "P9_S9")
    with pytest.raises(KeyError, match="synthetic_slides"):
        stp.datasets.expected_tiles(anndata.AnnData(np.ones((1, 2))), "P1_S1")
