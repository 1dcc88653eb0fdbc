"""What must hold for the numbers to be believed."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.metrics._log_normalize import log_normalize

SIDE, PITCH, PX = 5, 24, 8
N_PATIENTS = 10
MODELS = {
    "mean": {"model": "mean"},
    "ridge": {"model": "ridge"},
    "mlp": {"model": "mlp", "training": {"max_epochs": 6}},
    "color": {"model": "color", "training": {"max_epochs": 12}, "hyperparameters": {"patch_px": PX, "patch_um": PX}},
    "stnet": {
        "model": "stnet",
        "training": {"max_epochs": 1, "patience": 0},
        "hyperparameters": {"patch_px": 32, "patch_um": PX, "symmetries": False},
    },
    **{
        name: {
            "model": name,
            "training": {"max_epochs": n_epochs, "patience": 0, "learning_rate": 3e-3},
            "hyperparameters": "small",
        }
        for name, n_epochs in (("triplex", 3), ("bg_triplex", 3), ("dkan", 8))
    },
    "igi_dl": {
        "model": "igi_dl",
        "training": {"max_epochs": 8, "patience": 0, "learning_rate": 1e-2, "batch_size": 64},
        "hyperparameters": {
            "branches": "graph",
            "n_layers": 2,
            "n_hidden": 16,
            "mlp": (32,),
            "dropout": 0.0,
            "patch_um": PITCH,
        },
    },
}


def stained_cohort(seed: int = 0) -> ad.AnnData:
    """Ten patients, one section of 25 spots each; color, recorded features and counts follow one smooth field."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE].reshape(2, -1)
    parts, spatial = [], {}
    loading = rng.normal(0, 0.7, (2, 30))
    for patient in range(N_PATIENTS):
        angle = rng.uniform(0, 2 * np.pi)
        slope = (np.cos(angle) * (x - 2) + np.sin(angle) * (y - 2)) / 2
        field = np.stack([slope, rng.normal(size=SIDE**2)], axis=1)
        image = np.full((SIDE * PITCH, SIDE * PITCH, 3), 240, dtype=np.uint8)
        tone = np.clip(140 + 35 * field[:, :, None] * np.array([[1, 0.2, 0.1], [0.1, 0.3, 1]]), 10, 230).mean(axis=1)
        blocks = np.repeat(np.repeat(tone.reshape(SIDE, SIDE, 3), PITCH, axis=0), PITCH, axis=1)
        image[:] = np.clip(blocks + rng.normal(0, 6, image.shape), 0, 255)
        name = f"S{patient}"
        spatial[name] = {
            "images": {"hires": image},
            "scalefactors": {"tissue_hires_scalef": 1.0, "microns_per_pixel": 1.0, "spot_diameter_fullres": 10.0},
        }
        counts = rng.poisson(np.exp(2 + field @ loading + 0.3 * rng.normal(size=30))).astype(np.float32)
        obs = pd.DataFrame(
            {"sample": name, "patient": f"P{patient}", "array_row": y, "array_col": x},
            index=[f"{name}_{i}" for i in range(SIDE**2)],
        )
        part = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(30)]))
        part.obsm["spatial"] = np.column_stack([x, y]) * float(PITCH) + PITCH / 2
        noise = rng.normal(size=(SIDE**2, 6))
        part.obsm["X_field"] = np.concatenate([field, noise], axis=1).astype(np.float32)
        parts.append(part)
    adata = ad.concat(parts)
    adata.uns["spatial"] = spatial
    slots = ("X_field", "X_field_neighbors", "X_field_edges", "X_field_nuclei")
    adata.uns["stpredict"] = {slot: {"encoder": "field"} for slot in slots}
    with_squares(adata)
    with_nuclei(adata, rng)
    stp.pp.grid(adata)
    stp.pp.gene_table(adata, "random", n_components=8)
    return adata


def with_squares(adata: ad.AnnData) -> None:
    """Features of the spots around each, as if their tiles lay side by side; of drawings, a noisy copy."""
    y, x = np.mgrid[:SIDE, :SIDE].reshape(2, -1)
    row, col = y[:, None] + np.repeat(np.arange(-2, 3), 5), x[:, None] + np.tile(np.arange(-2, 3), 5)
    inside = (row >= 0) & (row < SIDE) & (col >= 0) & (col < SIDE)
    place = np.where(inside, row * SIDE + col, 0)
    mask = np.tile(inside, (adata.n_obs // SIDE**2, 1))
    features = adata.obsm["X_field"].reshape(-1, SIDE**2, adata.obsm["X_field"].shape[1])
    squares = features[:, place].reshape(adata.n_obs, 25, -1) * mask[..., None]
    rng = np.random.default_rng(0)
    for what in ("neighbors", "edges", "nuclei"):
        noise = rng.normal(size=squares.shape).astype(np.float32) * (what != "neighbors")
        adata.obsm[f"X_field_{what}"] = (squares + noise) * mask[..., None]
    adata.obsm["X_field_neighbor_mask"] = adata.obsm["X_field_boundary_mask"] = mask


def with_nuclei(adata: ad.AnnData, rng: np.random.Generator) -> None:
    """Up to four square nuclei in each spot, of the color that the picture has there."""
    import geopandas as gpd
    import shapely

    given = {}
    for name in adata.obs["sample"].unique():
        place = np.repeat(adata.obsm["spatial"][adata.obs["sample"] == name], 4, axis=0)
        place = (place + np.tile([[-6, -6], [6, -6], [-6, 6], [6, 6]], (SIDE**2, 1)))[
            rng.uniform(size=4 * SIDE**2) < 0.7
        ]
        given[name] = gpd.GeoDataFrame(geometry=list(shapely.box(*(place - 3).T, *(place + 3).T)))
    stp.pp.nuclei(adata, given, progress=False)


def shuffled(adata: ad.AnnData, seed: int) -> ad.AnnData:
    """Rows of the expression drawn anew within each section, before anything looks at them."""
    rng = np.random.default_rng(seed)
    order = np.arange(adata.n_obs)
    for name in adata.obs["sample"].unique():
        rows = np.flatnonzero(adata.obs["sample"] == name)
        order[rows] = rng.permutation(rows)
    changed = adata.copy()
    changed.X = adata.X[order]
    return changed


def score(adata: ad.AnnData, models: dict, panel: dict) -> pd.DataFrame:
    stp.pp.normalize(adata)
    target = stp.targets.Expression(panel=panel)
    scores = stp.tl.cross_validate(adata, models, 2, target=target, metrics=["pearson"], ceiling=False, baselines=False)
    assert not scores["leaky"].any()
    return stp.tl.summarize(scores).set_index("model")


@pytest.fixture(scope="module")
def stained() -> ad.AnnData:
    return stained_cohort()


@pytest.mark.parametrize(
    ("models", "method", "n"),
    [
        (["mean", "ridge", "mlp", "color"], "mean", 6),
        (["ridge"], "spatial_hvg", 6),
        (["stnet"], "mean", 4),
        (["triplex", "bg_triplex"], "mean", 6),
        (["dkan"], "mean", 4),
        (["igi_dl"], "mean", 4),
    ],
)
def test_permuted_labels_score_nothing(stained: ad.AnnData, models: list[str], method: str, n: int) -> None:
    """Over several permutations: the patients of one fold share a fitted model, so that the interval over the patients
    of a single permutation covers 0 in two cases of three only; permutations are independent of each other.
    """
    from stpredict.metrics import bootstrap_mean

    panel = {"method": method, "n_genes": 12}
    tables = [score(shuffled(stained, i), {m: MODELS[m] for m in models}, panel) for i in range(n)]
    for name in models:
        rows = pd.DataFrame([table.loc[name] for table in tables])
        assert (rows["n_patients"] == N_PATIENTS).all()
        if name == "mean":
            assert (rows["n_undefined"] == rows["n_scores"]).all()
            continue
        mean, low, high = bootstrap_mean(rows["pearson"].astype(float), level=0.99)
        assert low < 0 < high, f"{name}: {mean:.3f} ({low:.3f} to {high:.3f})"
        assert abs(mean) < 0.06, name


def test_the_same_models_learn_from_true_labels(stained: ad.AnnData) -> None:
    """Otherwise a score of nothing would say nothing."""
    models = {name: MODELS[name] for name in ("ridge", "mlp", "color", "triplex", "bg_triplex", "dkan", "igi_dl")}
    table = score(stained.copy(), models, {"method": "mean", "n_genes": 12})
    assert (table["low"] > 0.15).all()
    assert table.loc["ridge", "pearson"] > 0.5


@pytest.mark.parametrize("method", ["pearson_residuals", "log1p"])
def test_permuted_baseline_beside_every_table(stained: ad.AnnData, method: str) -> None:
    adata = stained.copy()
    stp.pp.normalize(adata, method=method)
    scores = stp.tl.cross_validate(adata, ["ridge"], 2, metrics=["pearson"], ceiling=False)
    table = stp.tl.summarize(scores).set_index("model")
    assert abs(table.loc["ridge (permuted labels)", "pearson"]) < 0.08 < table.loc["ridge", "low"]


@pytest.fixture(scope="module", params=[500, 10_000])
def ceilings(request: pytest.FixtureRequest) -> tuple[int, dict[str, pd.DataFrame]]:
    """Summaries of the expectation given as prediction: all genes, those with signal, those without; three cohorts."""
    kinds: dict[str, list[pd.DataFrame]] = {"all": [], "signal": [], "flat": []}
    for seed in range(3):
        adata = stp.datasets.synthetic_cohort(
            2, 2, 200, seed, n_spots=200, counts_per_spot=request.param, microns_per_pixel=4.0
        )
        stp.pp.normalize(adata, method="log1p")
        expected = adata.layers["expected"].astype(np.float64)
        best = log_normalize(expected, expected.sum(axis=1), 1e4)
        adata.obsm["predicted"] = pd.DataFrame(best, adata.obs_names, adata.var_names)
        scores = stp.tl.evaluate(adata, metrics=["pearson"], baselines=False)
        signal = scores["gene"].map(adata.var["signal"]).astype(bool)
        for kind, rows in (("all", signal | True), ("signal", signal), ("flat", ~signal)):
            kinds[kind].append(stp.tl.summarize(scores[rows], n_boot=10))
    return request.param, {kind: pd.concat(tables) for kind, tables in kinds.items()}


def test_ceiling_is_what_the_expectation_reaches(ceilings) -> None:
    tables = ceilings[1]
    assert abs((tables["all"]["ceiling"] - tables["all"]["pearson"]).mean()) < 0.03


def test_ceiling_of_genes_without_signal_is_not_too_high(ceilings) -> None:
    flat = ceilings[1]["flat"]
    assert (flat["ceiling"] < flat["pearson"] + 0.03).all()


def test_expectation_reaches_the_ceiling_of_genes_with_signal(ceilings, request) -> None:
    depth, tables = ceilings
    if depth == 500:
        # The normalized expectation is not the expectation of the normalized counts, and halves of few counts are
        # bent by log1p more than their sum: the ceiling is 0.04 too high, so that models look worse, not better.
        request.applymarker(pytest.mark.xfail(reason="0.93 to 0.94 at 500 counts per spot: log1p of few counts"))
    ratio = tables["signal"]["r_over_ceiling"]
    assert (ratio - 1).abs().max() < 0.04
    assert (tables["signal"]["ceiling"] - tables["signal"]["pearson"]).abs().max() < 0.03
