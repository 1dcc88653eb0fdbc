from __future__ import annotations

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

GENES = ["A", "B", "C", "D", "E"]


@pytest.fixture(autouse=True)
def clean_figures():
    """Every test starts and ends without open figures, and none may save one."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    plt.close("all")
    saved = []
    original = Figure.savefig
    Figure.savefig = lambda self, *args, **kwargs: saved.append(args)
    yield
    Figure.savefig = original
    plt.close("all")
    assert not saved


@pytest.fixture
def adata():
    """Two sections of 30 and 20 spots, five measured genes and a prediction of them and of one more, `Z`."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:5, :10].reshape(2, -1)
    values = rng.gamma(2, 1, (50, len(GENES))).astype(np.float32)
    obs = pd.DataFrame(
        {
            "sample": np.repeat(["s1", "s2"], [30, 20]),
            "patient": np.repeat(["p1", "p2"], [30, 20]),
            "domain": pd.Categorical(np.where(x < 5, "0", "1")),
            "label": np.where(x < 5, "stroma", "tumor"),
        },
        index=[f"o{i}" for i in range(50)],
    )
    adata = ad.AnnData(values, obs=obs, var=pd.DataFrame(index=GENES))
    adata.obsm["spatial"] = np.column_stack([x, y]) * 20.0 + 50
    predicted = pd.DataFrame(values * 0.5 + rng.normal(0, 0.3, values.shape), adata.obs_names, GENES)
    predicted["Z"] = rng.normal(size=50)
    adata.obsm["predicted"] = predicted
    adata.obs["predicted_leaky"] = False
    adata.obsm["X_tiny"] = (rng.normal(size=(50, 6)) + (x < 5)[:, None] * [4, 0, 0, 0, 0, 0]).astype(np.float32)
    image = rng.integers(0, 255, (60, 150, 3), dtype=np.uint8)
    factors = {"tissue_hires_scalef": 0.5, "spot_diameter_fullres": 11.0, "microns_per_pixel": 2.0}
    adata.uns["spatial"] = {"s1": {"images": {"hires": image}, "scalefactors": factors}}
    moran = pd.DataFrame({"s1": [0.1, 0.5, 0.3, np.nan, 0.2], "s2": [0.2, 0.7, 0.1, np.nan, 0.0]}, index=GENES)
    adata.varm["moran_i"] = moran
    adata.var["selected"] = [False, True, True, False, False]
    adata.uns["stpredict"] = {
        "normalize": {"method": "log1p", "target_sum": 10000.0, "size_factors": "all"},
        "selected": {"method": "moran", "min_i": 0.18},
        "X_tiny": {"encoder": "tiny"},
    }
    return adata


@pytest.fixture
def scores():
    """Three models, two patients of which one has two sections, four genes; `mean` is undefined throughout."""
    rng = np.random.default_rng(1)
    rows = [
        (model, sample, sample[:2], gene)
        for model in ("ridge", "mean", "net")
        for sample in ("p1a", "p1b", "p2a")
        for gene in "ABCD"
    ]
    table = pd.DataFrame(rows, columns=["model", "sample", "patient", "gene"])
    table["pearson"] = rng.uniform(-0.1, 0.8, len(table))
    table.loc[table["model"] == "mean", "pearson"] = np.nan
    table.loc[(table["model"] == "net") & (table["gene"] == "D"), "pearson"] = np.nan
    table.loc[(table["model"] == "net") & (table["gene"] == "C") & (table["sample"] == "p1a"), "pearson"] = np.nan
    table["rmse"] = 1 - table["pearson"].fillna(0)
    table["ceiling"] = table["gene"].map({"A": 0.6, "B": 0.7, "C": 0.8, "D": 0.9})
    table["leaky"] = table["model"] == "net"
    return table
