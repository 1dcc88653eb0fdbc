from __future__ import annotations

from pathlib import Path

import pytest

import stpredict as stp


@pytest.fixture(scope="session")
def slide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small synthetic slides of four patients, one of which is cut off in the middle."""
    folder = tmp_path_factory.mktemp("slides")
    stp.datasets.synthetic_slides(
        4, 2, n_genes=6, image_dir=folder, slide_um=500, margin_um=100, microns_per_pixel=4, censoring=0
    )
    whole = (folder / "P3_S1.tif").read_bytes()
    (folder / "P3_S1.tif").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="session")
def sections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sections of three patients with counts and pictures, six numbers of color for each spot, as an h5ad file."""
    folder = tmp_path_factory.mktemp("sections")
    adata = stp.datasets.synthetic_cohort(
        3, 1, 6, n_spots=36, microns_per_pixel=4.0, counts_per_spot=3000, image_dir=folder / "images"
    )
    stp.pp.image_features(adata, "color-statistics")
    stp.pp.normalize(adata)
    adata.write_h5ad(folder / "sections.h5ad")
    return folder / "sections.h5ad"


@pytest.fixture(scope="session")
def ridge(sections: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved ridge on these six numbers, fitted on patients that no slide is of."""
    import anndata as ad

    adata = ad.read_h5ad(sections)
    adata.obs["patient"] = "train " + adata.obs["patient"].astype(str)
    path = tmp_path_factory.mktemp("models") / "ridge"
    stp.tl.fit(adata, "ridge", path=path)
    return path
