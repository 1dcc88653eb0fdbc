from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.tl.biology._cluster import Communities, neighbor_graph
from stpredict.tl.biology._domain_stability import _plateau

RESOLUTIONS = (0.1, 0.3, 1.0, 3.0)


def made(separation: float, n: int = 180, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    group = np.arange(n) % 3
    values = rng.normal(separation * np.eye(3, 10)[group], 1)
    adata = ad.AnnData(np.zeros((n, 0)), obs=pd.DataFrame({"sample": "s"}, index=[f"o{i}" for i in range(n)]))
    adata.obsm["predicted"] = pd.DataFrame(values, adata.obs_names, [f"g{i}" for i in range(10)])
    adata.obs["label"] = group.astype(str)
    return adata


def test_groups_are_found_again_and_suggested():
    adata = made(6.0)
    before = adata.copy()
    table = stp.tl.domain_stability(adata, resolutions=RESOLUTIONS, n_runs=4)
    assert table.attrs["n_domains"] == 3
    at = table.set_index("resolution").loc[table.attrs["suggested"]]
    assert at["ari"] > 0.95
    assert at["null_ari"] < at["ari"] - 0.15
    assert ((table["low"] <= table["ari"] + 1e-9) & (table["ari"] <= table["high"] + 1e-9)).all()
    assert list(adata.obs) == list(before.obs)
    assert dict(adata.uns) == dict(before.uns)


def test_labels_are_not_read_and_a_seed_repeats():
    adata = made(2.0)
    one = stp.tl.domain_stability(adata, resolutions=RESOLUTIONS, n_runs=3)
    adata.obs["label"] = "x"
    other = stp.tl.domain_stability(adata, resolutions=RESOLUTIONS, n_runs=3)
    pd.testing.assert_frame_equal(pd.DataFrame(one), pd.DataFrame(other))
    third = stp.tl.domain_stability(adata, resolutions=RESOLUTIONS, n_runs=3, seed=1)
    assert not np.allclose(one["ari"], third["ari"])


def test_noise_has_no_suggestion():
    table = stp.tl.domain_stability(made(0.0), resolutions=RESOLUTIONS, n_runs=4)
    assert table.attrs["suggested"] is None
    assert table.attrs["plateau"] is None
    divided = table["null_ari"].notna()
    assert divided.any()
    np.testing.assert_allclose(table["ari"][divided], table["null_ari"][divided], atol=0.25)


def test_the_plateau_is_the_longest_stretch_and_its_finest_end():
    table = pd.DataFrame({"n_low": [1, 2, 3, 3, 4, 9], "ari": [1.0, 0.99, 0.96, 0.95, 0.7, 0.95], "null_ari": 0.2})
    assert _plateau(table) == (1, 3)
    assert _plateau(table.assign(null_ari=[0.2, 0.5, 0.9, 0.9, 0.2, 0.2])) == (5, 5)
    assert _plateau(table.assign(null_ari=np.nan)) == (1, 3)
    assert _plateau(table.assign(ari=0.4)) is None


def test_communities_are_those_of_igraph_and_leave_its_generator():
    import random

    graph = neighbor_graph(made(6.0).obsm["predicted"].to_numpy(dtype=np.float32), 10, 0)
    found = Communities(graph)
    random.seed(3)
    expected = random.random()
    random.seed(3)
    labels = found(0.3, 0)
    assert random.random() == expected
    np.testing.assert_array_equal(labels, found(0.3, 0))
    together = pd.crosstab(labels, np.arange(180) % 3)
    assert together.shape == (3, 3)
    assert (together > 0).sum().sum() == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolutions": ()}, "ascending"),
        ({"resolutions": (1.0, 0.5)}, "ascending"),
        ({"n_runs": 1}, "n_runs"),
        ({"fraction": 0}, "fraction"),
        ({"smooth": 1}, "smooth"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        stp.tl.domain_stability(made(1.0, 30), **options)
