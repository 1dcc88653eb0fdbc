from __future__ import annotations

import os
import subprocess
import sys

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from stpredict import pl
from stpredict.pl._style import draw_spots, find_section, frame_section, style
from stpredict.slots._score_tables import gene_means


def section_of(adata, **kwargs):
    return find_section(
        adata, **({"sample": None, "spot_size": None, "sample_key": "sample", "table_key": "table"} | kwargs)
    )


def test_namespace_imports_no_heavy_package():
    code = (
        "import sys, stpredict.pl as pl; "
        "assert all(hasattr(pl, name) for name in pl.__all__); "
        "print(sorted({'matplotlib', 'torch', 'scanpy', 'pandas', 'anndata', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert pl.__all__ == sorted(pl.__all__)


def test_settings_of_the_user_come_back():
    before = dict(mpl.rcParams)
    with style():
        assert mpl.rcParams["font.size"] == 9
    assert dict(mpl.rcParams) == before


def test_section_geometry(adata):
    section = section_of(adata)
    assert section.name == "s1"
    assert section.diameter == 16  # 0.8 of the distance; the scale factors say 11
    assert section_of(adata, to_scale=True).diameter == 11
    np.testing.assert_array_equal(section.rows, np.arange(30))
    left, right, bottom, top = section.box
    assert left < section.xy[:, 0].min() < section.xy[:, 0].max() < right
    assert top < section.xy[:, 1].min() < section.xy[:, 1].max() < bottom


def test_picture_lies_where_the_spots_are(adata):
    image = np.full((60, 150, 3), 255, np.uint8)
    x, y = (adata.obsm["spatial"][7] * 0.5).astype(int)
    image[y - 2 : y + 3, x - 2 : x + 3] = 0
    adata.uns["spatial"]["s1"]["images"]["hires"] = image
    section = section_of(adata)
    ax = plt.subplots()[1]
    frame_section(ax, section, picture=1.0)
    shown = ax.images[0]
    left, right, bottom, top = shown.get_extent()
    rows, columns = np.nonzero(shown.get_array()[..., 0] == 0)
    height, width = shown.get_array().shape[:2]
    assert left + (columns.mean() + 0.5) / width * (right - left) == pytest.approx(adata.obsm["spatial"][7, 0], abs=2.5)
    assert top + (rows.mean() + 0.5) / height * (bottom - top) == pytest.approx(adata.obsm["spatial"][7, 1], abs=2.5)
    assert ax.yaxis_inverted()
    assert ax.get_aspect() == 1


def test_picture_beyond_the_image_is_white(adata):
    adata.uns["spatial"]["s1"]["images"]["hires"] = np.zeros((30, 60, 3), np.uint8)  # ends amid the spots
    picture = section_of(adata).image
    assert (picture[0, 0] == 0).all()
    assert (picture[-1, -1] == 255).all()


def test_spots_have_their_true_size(adata):
    section = section_of(adata, spot_size=14)
    figure, ax = plt.subplots()
    frame_section(ax, section)
    spots = draw_spots(ax, section, values=np.r_[np.nan, np.arange(29.0)])
    figure.draw_without_rendering()
    assert len(ax.collections) == 1
    outline = spots.get_paths()[0].vertices @ spots.get_transforms()[0][:2, :2].T
    drawn = np.ptp(spots.get_transform().transform(outline)[:, 0])
    pixel = np.diff(ax.transData.transform([[0, 0], [1, 0]])[:, 0])[0]
    assert drawn / pixel == pytest.approx(14, rel=1e-3)
    assert spots.get_array().mask.tolist() == [True] + [False] * 29


def test_spot_size_from_the_distance_between_spots(adata):
    assert section_of(adata, sample="s2").diameter == pytest.approx(16)


def test_dense_sections_are_drawn_without_gaps():
    x, y = np.meshgrid(np.arange(50.0), np.arange(50.0))
    adata = ad.AnnData(np.zeros((2500, 1)), obs=pd.DataFrame({"sample": "s"}, index=[f"{i}" for i in range(2500)]))
    adata.obsm["spatial"] = np.column_stack([x.ravel(), y.ravel()]) * 4
    assert section_of(adata).diameter == pytest.approx(4 * 2**0.5, rel=0.02)
    assert section_of(adata, spot_size=3).diameter == 3
    assert section_of(adata[:100].copy()).diameter == pytest.approx(3.2)


def test_observations_off_tissue_are_left_out(adata):
    adata.obs["in_tissue"] = np.arange(50) % 2
    assert section_of(adata).rows.tolist() == list(range(1, 30, 2))


def test_errors(adata):
    with pytest.raises(KeyError, match="choose among"):
        section_of(adata, sample="nowhere")
    with pytest.raises(ValueError, match="spot_size"):
        section_of(adata, spot_size=-1)
    with pytest.raises(KeyError, match=r"obs\['slide'\]"):
        section_of(adata, sample_key="slide")
    adata.obsm["spatial"][3, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        section_of(adata)
    del adata.obsm["spatial"]
    with pytest.raises(KeyError, match="spatial"):
        section_of(adata)


def test_means_over_sections_then_patients(scores):
    table = scores[scores["model"] == "net"].copy()
    table["pearson"] = table["sample"].map({"p1a": 0.0, "p1b": 0.2, "p2a": 0.5})
    assert gene_means(table, "pearson", ["model"]).to_list() == pytest.approx([0.3] * 4)


def test_a_backend_stays_interactive_that_is_loaded_by_the_first_figure(tmp_path):
    """As that of notebooks, which shows no figure otherwise."""
    backend = "from matplotlib.backends.backend_agg import *\nimport matplotlib\nmatplotlib.interactive(True)\n"
    (tmp_path / "notebook_backend.py").write_text(backend)
    code = "import matplotlib\nfrom stpredict.pl._style import style\nwith style():\n    pass\nprint(matplotlib.is_interactive())"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "MPLBACKEND": "module://notebook_backend"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
