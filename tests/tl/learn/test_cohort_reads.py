"""What a fit of a cohort on disk reads at a time, and that it learns what it learns in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import stpredict as stp
from stpredict.training import FittedModel

TINY: dict[str, Any] = {"hyperparameters": "small", "training": {"max_epochs": 2}}
N_ROWS, LARGEST = 72, 12  # of `toy`, and of a section


def weights(model: FittedModel) -> list[np.ndarray]:
    """Everything that a network has learned."""
    return [tensor.numpy() for tensor in model.network.state_dict().values()]


def same(one: FittedModel, two: FittedModel) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("method", ["mean", "spatial_hvg", "moran"])
@pytest.mark.parametrize("normalization", ["log1p", "pearson_residuals"])
def test_genes_are_selected_section_by_section(
    toy: ad.AnnData, tmp_path: Path, largest_read: Callable[..., int], normalization: Any, method: str, form: Any
) -> None:
    toy.layers["counts"] = form(toy.layers["counts"])
    disk = stp.Cohort.divide(toy, tmp_path / "sections")
    for data in (toy, disk):
        stp.pp.normalize(data, method=normalization, layer="counts")
    panel: dict[str, Any] = {"method": method, "n_genes": 3}
    if method == "moran":
        panel |= {"p_value": 1.0, "min_i": -1.0, "n_neighbors": 4}
    options: dict[str, Any] = {"target": {"panel": panel}, "baselines": False}
    two = stp.tl.fit(disk, "ridge", disk.obs["patient"] != "p2", **options)
    assert 0 < largest_read(N_ROWS) <= LARGEST
    one = stp.tl.fit(toy, "ridge", toy.obs["patient"] != "p2", **options)
    assert len(two.panel) == 3
    assert two.panel == one.panel
    assert same(one, two)


@pytest.mark.parametrize("target", [None, stp.targets.Counts(family="negative_binomial")])
@pytest.mark.parametrize("normalization", ["log1p", "pearson_residuals"])
def test_auxiliary_genes_stay_in_files(
    toy: ad.AnnData, tmp_path: Path, largest_read: Callable[..., int], normalization: Any, target: Any
) -> None:
    disk = stp.Cohort.divide(toy, tmp_path / "sections")
    for data in (toy, disk):
        stp.pp.normalize(data, method=normalization, layer="counts")
    training = {"max_epochs": 2, "auxiliary": "all", "n_primary": 2, "batch_size": LARGEST}
    options: dict[str, Any] = {"target": target, "training": training, "hyperparameters": "small"}
    two = stp.tl.fit(disk, "mlp", disk.obs["patient"] != "p2", **options)
    assert 0 < largest_read(N_ROWS) <= LARGEST
    one = stp.tl.fit(toy, "mlp", toy.obs["patient"] != "p2", **options)
    assert len(two.panel) == 2
    assert two.panel == one.panel
    assert same(one, two)
    assert same(one.baselines["ridge"], two.baselines["ridge"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bags_stay_in_files(slides: ad.AnnData, tmp_path: Path, largest_read: Callable[..., int], dtype: Any) -> None:
    """A bag is read when it is asked for, and standardized as in memory: by all tokens but padding."""
    slides.obsm["X_toy_bag"] = slides.obsm["X_toy_bag"].astype(dtype)
    disk = stp.Cohort.divide(slides, tmp_path / "slides")
    train = (slides.obs["patient"] != "p03").to_numpy()
    training = {"max_epochs": 2, "batch_size": LARGEST}
    options: dict[str, Any] = {"hyperparameters": {"depth": 1, "heads": 2, "d_head": 8}, "training": training}
    two = stp.tl.fit(disk, "sequoia", train, baselines=["permuted"], **options)
    assert 0 < largest_read(24, 6, 5) <= LARGEST
    one = stp.tl.fit(slides, "sequoia", train, baselines=["permuted"], **options)
    assert same(one, two)
    assert same(one.baselines["permuted"], two.baselines["permuted"])


def test_bags_with_gaps_are_refused(slides: ad.AnnData, tmp_path: Path) -> None:
    slides.obsm["X_toy_bag"][5, 0, 0] = np.nan
    disk = stp.Cohort.divide(slides, tmp_path / "slides")
    with pytest.raises(
        ValueError, match=r"expected finite tokens in obsm\['X_toy_bag'\]; found NaN or infinity in 1 rows"
    ):
        stp.tl.fit(disk, "sequoia")


@pytest.mark.parametrize("target", [None, stp.targets.Counts(family="negative_binomial")])
def test_labels_are_shuffled_in_files(
    toy: ad.AnnData, tmp_path: Path, largest_read: Callable[..., int], target: Any
) -> None:
    """Each gene by itself, in the order of the call in memory; the file is gone when the model is there."""
    toy.obs["measured"] = np.arange(N_ROWS) % 7 > 0
    disk = stp.Cohort.divide(toy, tmp_path / "sections")
    two = stp.tl.fit(disk, "ridge", "measured", target=target, baselines=["permuted"])
    assert 0 < largest_read(N_ROWS) <= LARGEST
    one = stp.tl.fit(toy, "ridge", "measured", target=target, baselines=["permuted"])
    assert same(one.baselines["permuted"], two.baselines["permuted"])
    assert not same(one.baselines["permuted"], one)
    assert not list((stp.settings.cache_dir / "cohorts" / "folds").iterdir())


def test_profiles_of_slides_are_shuffled_in_files(slides: ad.AnnData, tmp_path: Path) -> None:
    """Among patients, each of whom has one."""
    disk = stp.Cohort.divide(slides, tmp_path / "slides")
    one, two = (stp.tl.fit(data, "ridge", baselines=["permuted"]) for data in (slides, disk))
    assert same(one.baselines["permuted"], two.baselines["permuted"])


@pytest.mark.parametrize("normalization", ["log1p", "pearson_residuals"])
def test_folds_read_no_more_than_a_section(
    toy: ad.AnnData, tmp_path: Path, largest_read: Callable[..., int], normalization: Any
) -> None:
    """Nor do the labels that are shuffled, and the genes that are redrawn."""
    disk = stp.Cohort.divide(toy, tmp_path / "sections")
    stp.pp.normalize(disk, method=normalization, layer="counts")
    scores = stp.tl.cross_validate(disk, "ridge", target={"panel": {"method": "mean", "n_genes": 3}}, ceiling=False)
    assert {"ridge (permuted labels)", "ridge (null genes)"} <= set(scores["model"])
    assert 0 < largest_read(N_ROWS) <= LARGEST


@pytest.mark.parametrize("unit", [{"method": "pearson_residuals"}, {"method": "log1p", "target_sum": "median"}])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("method", ["mean", "spatial_hvg"])
def test_parts_of_sections_have_values_of_their_own(
    toy: ad.AnnData, tmp_path: Path, largest_read: Callable[..., int], unit: dict[str, Any], form: Any, method: str
) -> None:
    """Those of the training rows alone, also where genes are selected, and where some of them are auxiliary."""
    toy.layers["counts"] = form(toy.layers["counts"])
    disk = stp.Cohort.divide(toy, tmp_path / "sections")
    for data in (toy, disk):
        stp.pp.normalize(data, layer="counts", **unit)
    train = (np.arange(N_ROWS) % 12 < 7) | (toy.obs["sample"] == "s3").to_numpy()
    training = {"max_epochs": 2, "auxiliary": "all", "n_primary": 2, "batch_size": LARGEST}
    options: dict[str, Any] = {"target": {"panel": {"method": method, "n_genes": 4}}, "baselines": ["ridge"]}
    options |= {"training": training, "hyperparameters": "small"}
    two = stp.tl.fit(disk, "mlp", train, **options)
    assert 0 < largest_read(N_ROWS) <= LARGEST
    one = stp.tl.fit(toy, "mlp", train, **options)
    assert two.panel == one.panel
    assert same(one, two)
    assert same(one.baselines["ridge"], two.baselines["ridge"])
