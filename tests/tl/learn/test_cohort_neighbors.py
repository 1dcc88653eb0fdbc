"""Tiles around observations, and features of whole sections, stay in the files of a cohort."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._rows import rows_of
from stpredict.tl.learn.inputs._neighbors import Neighbors, in_units_of_sections
from stpredict.tl.learn.inputs._reader import Source

ORDER = ["sample", "model", "gene"]
HOW: dict[str, Any] = {"hyperparameters": "small", "training": {"max_epochs": 2}}
OF_A_SECTION = 12


@pytest.fixture
def sections(toy: ad.AnnData) -> ad.AnnData:
    """Noise around every spot, some of it beyond the edge, and drawings of it."""
    rng = np.random.default_rng(1)
    for name in ("neighbors", "edges", "nuclei"):
        values = rng.normal(2, 3, size=(toy.n_obs, 25, 4)).astype(np.float32)
        values[:, :, 3] = 1.5  # constant
        toy.obsm[f"X_toy_{name}"] = values
        toy.uns["stpredict"][f"X_toy_{name}"] = {"encoder": "toy", "tile_um": 100.0, "grid": 5}
    for name in ("neighbor_mask", "boundary_mask"):
        there = rng.random((toy.n_obs, 25)) < 0.8
        there[:, 12] = True
        toy.obsm[f"X_toy_{name}"] = there
    toy.obsm["X_toy_neighbors"][~toy.obsm["X_toy_neighbor_mask"]] = np.nan  # what lies there is not read
    stp.pp.grid(toy)
    stp.pp.gene_table(toy, "random")
    return toy


@pytest.fixture
def disk(sections: ad.AnnData, tmp_path: Path) -> stp.Cohort:
    return stp.Cohort.divide(sections, tmp_path / "sections")


def learned(model: Any) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in model.network.state_dict().values()]


@pytest.mark.parametrize("name", ["triplex", "bg_triplex", "dkan"])
@pytest.mark.parametrize("scaling", ["section", "global"])
def test_a_fit_is_that_in_memory(sections: ad.AnnData, disk: stp.Cohort, name: str, scaling: str) -> None:
    train = (sections.obs["patient"] != "p2").to_numpy()
    options = HOW | {"features": {"slot": "X_toy", "scaling": scaling}, "baselines": False}
    one = stp.tl.fit(sections, name, train, **options)
    two = stp.tl.fit(disk, name, train, **options | {"training": HOW["training"] | {"num_workers": 2}})
    assert all(map(np.array_equal, learned(one), learned(two)))


@pytest.mark.parametrize("blocks", [False, True])
def test_folds_are_those_in_memory(sections: ad.AnnData, disk: stp.Cohort, blocks: bool) -> None:
    folds = stp.cohorts.spatial_blocks(sections, 2, buffer_um=0) if blocks else "patient"
    tables = [
        stp.tl.cross_validate(
            data, {"network": {"model": "triplex", **HOW}}, folds, allow_leakage=True, baselines=["mean"],
            metrics=["pearson", "rmse"], progress=False,
        )
        for data in (sections, disk)
    ]  # fmt: skip
    one, two = (pd.DataFrame(table).sort_values(ORDER).reset_index(drop=True) for table in tables)
    pd.testing.assert_frame_equal(one, two)


def test_no_read_has_more_rows_than_a_section(disk: stp.Cohort, largest_read: Callable[..., int]) -> None:
    """But for masks, positions and cells, which are numbers of a spot: what a network reads of pictures stays in files."""
    how = {"max_epochs": 2, "batch_size": OF_A_SECTION}
    stp.tl.fit(disk, "bg_triplex", baselines=False, hyperparameters="small", training=how)
    for slot in ("X_toy", "X_toy_neighbors", "X_toy_edges", "X_toy_nuclei"):
        shape = disk.table().obsm[slot].shape
        assert len(shape) == 2 + (slot != "X_toy")
        assert 0 < largest_read(*shape) <= OF_A_SECTION


def test_what_is_not_finite_is_found(disk: stp.Cohort) -> None:
    def broken(adata: ad.AnnData) -> None:
        adata.obsm["X_toy_neighbors"][2, 12, 1] = np.inf

    disk[["s3"]].map(broken)
    with pytest.raises(
        ValueError, match=r"finite features in obsm\['X_toy_neighbors'\]; found NaN or infinity in 1 rows"
    ):
        stp.tl.fit(disk, "triplex", baselines=False, **HOW)


def test_a_held_out_block_has_no_part_in_the_units(sections: ad.AnnData, disk: stp.Cohort) -> None:
    """Squares in files are brought to the units of the training rows alone, as those in memory are."""
    by = np.arange(sections.n_obs) % OF_A_SECTION < 7
    found = []
    for adata in (sections, disk.table()):
        rows = rows_of(adata, np.ones(adata.n_obs, dtype=bool), sample_key="sample", patient_key="patient")
        read = Neighbors().read(Source(data=adata, adata=adata, rows=rows, config=None, slots=["X_toy"]))
        squares, mask = read["neighbors"], read["neighbor_mask"]
        found.append(in_units_of_sections(squares, mask, rows.sample, by)[np.arange(len(rows))])
    assert np.array_equal(*found)
    middle = found[1][by & (sections.obs["sample"] == "s0").to_numpy(), 12, :3]
    np.testing.assert_allclose(middle.mean(axis=0), 0, atol=1e-5)
