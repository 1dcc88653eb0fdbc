"""Figures look as they did: each is drawn from fixed data and compared with a picture that somebody has looked at.

`make baselines` draws the pictures again; look at each before it is committed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.pl._finished import figure_of

FOLDER = Path(__file__).parent / "baseline"
DPI = 75
#: Pixels within which a like color has to be: other versions of fonts and of the layout move things by one.
REACH = 2
#: Difference of a color channel, of 255, that counts.
LIKE = 48
#: Share of the pixels that may have no like one near by.
MOST = 0.0004
#: Shares of the figure by which axes may stand elsewhere.
MOVED = 0.03

pytestmark = pytest.mark.filterwarnings("ignore")


def even(n: int, step: float = 0.618034) -> np.ndarray:
    """Numbers (n,) that fill 0 to 1 evenly without a pattern, the same on every machine."""
    return (0.5 + step * np.arange(n)) % 1.0


def bell(n: int, step: float = 0.618034) -> np.ndarray:
    """Numbers (n,) with a normal distribution."""
    from scipy.stats import norm

    return norm.ppf(0.005 + 0.99 * even(n, step))


def section(n_domains: int = 4) -> ad.AnnData:
    """A section of 180 spots on a hexagonal lattice with a picture, two genes, their prediction and domains."""
    row, col = np.mgrid[:12, :15].reshape(2, -1)
    x, y = (col + 0.5 * (row % 2)) * 100.0 + 150, row * 86.6 + 150
    inside = np.hypot((x - 900) / 900, (y - 620) / 620) < 1
    x, y = x[inside], y[inside]
    n = len(x)
    wave = np.sin(x / 250) + np.cos(y / 300)
    values = np.column_stack([wave + 0.5 * bell(n), x / 800 + 0.4 * bell(n, 0.4142136)])
    names = [f"s{i}" for i in range(n)]
    obs = pd.DataFrame({"sample": "S1", "patient": "P1"}, names)
    number = np.minimum(n_domains * (x - x.min()) / np.ptp(x), n_domains - 1).astype(int)
    obs["domain"] = pd.Categorical(number.astype(str), [str(k) for k in range(n_domains)])
    obs["attribution_GENE1"] = 0.02 * wave
    adata = ad.AnnData(values, obs, pd.DataFrame(index=["GENE1", "GENE2"]))
    adata.obsm["spatial"] = np.column_stack([x, y])
    adata.obsm["predicted"] = pd.DataFrame(
        values * [0.6, 0.5] + 0.2 * bell(n, 0.7320508)[:, None], names, adata.var_names
    )
    adata.obsm["predicted_std"] = adata.obsm["predicted"] * 0 + (0.3 + 0.2 * even(n))[:, None]
    for side, sign in (("lower", -1.2), ("upper", 1.2)):
        adata.obsm[f"predicted_{side}"] = adata.obsm["predicted"] + sign * adata.obsm["predicted_std"]
    adata.obs["predicted_leaky"] = False
    down, right = np.mgrid[:130, :180]
    tissue = np.hypot((right - 90) / 88, (down - 62) / 62) < 1
    picture = np.full((130, 180, 3), 240, np.uint8)
    picture[tissue] = np.stack([190 + 30 * np.sin(right / 6), 110 + 40 * np.cos(down / 7), 170 + 0 * down], -1)[tissue]
    factors = {"tissue_hires_scalef": 0.1, "spot_diameter_fullres": 55.0, "microns_per_pixel": 1.0}
    adata.uns["spatial"] = {"S1": {"images": {"hires": picture}, "scalefactors": factors}}
    adata.uns["stpredict"] = {"normalize": {"method": "log1p", "target_sum": 1e4, "size_factors": "all"}}
    return adata


def table() -> pd.DataFrame:
    """Scores of two models and a baseline on 60 genes of three patients, two genes without any."""
    parts = []
    for model, height in (("ridge (permuted labels)", 0.0), ("ridge", 0.35), ("mlp", 0.3)):
        for number, patient in enumerate("PQR"):
            part = pd.DataFrame(
                {"model": model, "sample": f"{patient}1", "patient": patient, "leaky": False}, range(60)
            )
            part["gene"] = [f"GENE{i}" for i in range(60)]
            part["ceiling"] = 0.45 + 0.5 * even(60)
            part["pearson"] = height * (0.3 + even(60, 0.4142136)) + 0.08 * bell(60, 0.7320508 + 0.01 * number)
            part.loc[part.index[:2], "pearson"] = np.nan
            parts.append(part)
    return pd.concat(parts, ignore_index=True)


def draw_maps() -> Any:
    adata = section()
    adata.obsm["predicted"]["GENE2"] = 3 + 1e-4 * even(adata.n_obs)
    return stp.pl.maps(adata, ["GENE1", "GENE2"], picture="beside")


def draw_well_predicted() -> Any:
    r = {name: 0.2 + height * bell(300) for name, height in (("one model", 0.2), ("another", 0.15))}
    return stp.pl.well_predicted(
        {
            name: pd.DataFrame(
                {"gene": range(300), "pearson": each, "well_predicted": each > 0.4, "leaky": name != "another"}
            )
            for name, each in r.items()
        }
    )


def draw_predictability() -> Any:
    n = 120
    found = pd.DataFrame({"gene": [f"GENE{i}" for i in range(n)], "ceiling": -0.2 + 1.1 * even(n)})
    found["pearson"] = np.maximum(found["ceiling"], 0) * even(n, 0.4142136) ** 3 + 0.05 * bell(n, 0.7320508)
    found["q"] = np.where(found["pearson"] > 0.15, 0.01, 0.6)
    return stp.pl.predictability(found.assign(neighbors_from="other patients"))


def draw_gene_pathways() -> Any:
    genes = [f"G{i}" for i in range(60)]
    sets = {"first set": genes[:8], "another set": genes[6:15], "a third one": genes[20:26]}
    found = stp.tl.enrich([*genes[:13], *genes[20:25]], sets, background=genes)
    return stp.pl.gene_pathways(found, dict(zip(genes, 0.2 + 0.6 * even(60), strict=True)), n_genes=4, alpha=0.1)


def draw_survival() -> Any:
    risk = bell(80)
    obs = pd.DataFrame({"patient": np.arange(80), "risk": risk}, [f"s{i}" for i in range(80)])
    obs["time"] = np.round(-8 * np.log(0.02 + 0.97 * even(80, 0.4142136)) * np.exp(-0.6 * risk), 2)
    obs["event"], obs["risk_group"] = even(80, 0.7320508) < 0.7, np.where(risk > 0, "high", "low")
    return stp.pl.survival(ad.AnnData(obs=obs), time_label="years")


def draw_features() -> Any:
    n = 150
    values = np.column_stack([bell(n, step) for step in (0.618034, 0.4142136, 0.7320508, 0.2360680)])
    values[:50, 0] += 4
    obs = pd.DataFrame({"patient": np.repeat(["P1", "P2", "P3"], 50)}, [f"s{i}" for i in range(n)])
    adata = ad.AnnData(obs=obs, obsm={"X_tiny": values * [3, 2, 1, 0.5]})
    adata.uns["stpredict"] = {"X_tiny": {"encoder": "tiny"}}
    return stp.pl.features(adata, color="patient")


def draw_history() -> Any:
    epoch = np.arange(12)
    inner = pd.DataFrame({"epoch": epoch, "train_loss": 0.4 + 0.6 * 0.7**epoch, "phase": "inner"})
    inner["validation_loss"] = 0.6 + 0.4 * 0.6**epoch + 0.01 * epoch
    refit = pd.DataFrame({"epoch": epoch[:7], "train_loss": 0.38 + 0.6 * 0.68 ** epoch[:7], "phase": "refit"})
    return stp.pl.history(pd.concat([inner, refit], ignore_index=True))


def draw_slide() -> Any:
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("wsidata")
    down, right = np.mgrid[:640, :800]
    picture = np.full((640, 800, 3), 243, np.uint8)
    inside = np.hypot((right - 400) / 330, (down - 320) / 250) < 1
    picture[inside] = np.stack([185 + 30 * np.sin(right / 9), 105 + 30 * np.cos(down / 8), 160 + 0 * down], -1)[inside]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tiff"
        tifffile.imwrite(path, picture, tile=(256, 256), photometric="rgb")
        slide = stp.io.open_slide(path, 1.0)
        stp.pp.tissue(slide)
        stp.pp.tiles(slide, tile_um=64, tile_px=64)
        tiles = slide.shapes["tiles"]
        tiles["depth_um"] = np.sin(tiles["x"] / 120.0) * 10
        return stp.pl.slide(slide, color="depth_um")


DRAWINGS: dict[str, Callable[[], Any]] = {
    "genes": lambda: stp.pl.genes(section(), ["GENE1"]),
    "maps": draw_maps,
    "domains": lambda: stp.pl.domains(section(8)),
    "attribution": lambda: stp.pl.attribution(section(), "GENE1"),
    "uncertainty": lambda: stp.pl.uncertainty(section(), ["GENE1"]),
    "scores": lambda: stp.pl.scores(table()),
    "ceiling": lambda: stp.pl.ceiling(table(), model="ridge"),
    "predictability": draw_predictability,
    "blocks": lambda: stp.pl.blocks(section(), stp.cohorts.spatial_blocks(section(), 4, 200)),
    "gene_pathways": draw_gene_pathways,
    "rank_genes": lambda: stp.pl.rank_genes(table(), n_genes=8, shown="R", model="ridge", n_boot=200),
    "well_predicted": draw_well_predicted,
    "survival": draw_survival,
    "slide": draw_slide,
    "features": draw_features,
    "history": draw_history,
}


def places(figure: Any) -> list[list[float]]:
    """Place (left, bottom, width, height) of each axes as shares of the figure, as the layout makes them."""
    figure.set_dpi(DPI)
    figure.canvas.draw()
    return [np.round(ax.get_position(original=True).bounds, 4).tolist() for ax in figure.axes]


def pixels(figure: Any, where: list[list[float]]) -> np.ndarray:
    """A figure as it is drawn (h, w, 3) with its axes at given places, so that wider letters do not move all of it."""
    figure.set_layout_engine("none")
    for ax, bounds in zip(figure.axes, where, strict=True):
        ax.set_position(bounds)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def unlike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pixels (h, w) of one picture without a like one near by in the other, or the other way round.

    A pixel is like a place if each channel lies within what the place spans.
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    size = (2 * REACH + 1, 2 * REACH + 1, 1)
    found = np.zeros(one.shape[:2], dtype=bool)
    for own, place in ((one, other), (other, one)):
        own, place = own.astype(int), place.astype(int)
        beyond = np.maximum(own - maximum_filter(place, size), minimum_filter(place, size) - own)
        found |= (beyond > LIKE).any(axis=2)
    return found


def drawn(name: str, where: list[list[float]] | None = None) -> tuple[np.ndarray, list[list[float]]]:
    """The figure of this name in the settings that matplotlib comes with, and the places of its axes."""
    import matplotlib.pyplot as plt

    with plt.style.context("default"):
        mpl.rcParams["text.hinting"] = "none"
        figure = figure_of(DRAWINGS[name]())
        own = places(figure)
        if where is not None and len(where) != len(own):
            raise AssertionError(f"expected {len(where)} axes in the figure {name!r}; found {len(own)}")
        return pixels(figure, own if where is None else where), own


def padded(picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A picture on white of another size."""
    result = np.full(shape, 255, dtype=np.uint8)
    result[: picture.shape[0], : picture.shape[1]] = picture[: shape[0], : shape[1]]
    return result


def share_unlike(found: np.ndarray, kept: np.ndarray) -> float:
    """Share of the pixels without a like one; sizes may differ by the pixel that rounding takes."""
    if np.abs(np.subtract(found.shape, kept.shape)).max() > 1:
        return 1.0
    return float(unlike(padded(found, kept.shape), kept).mean())


@pytest.mark.parametrize("name", DRAWINGS)
def test_figure_looks_as_it_did(name: str, tmp_path: Path) -> None:
    from PIL import Image

    kept = np.asarray(Image.open(FOLDER / f"{name}.png").convert("RGB"))
    where = json.loads((FOLDER / "places.json").read_text())[name]
    found, own = drawn(name, where)
    np.testing.assert_allclose(own, where, atol=MOVED)
    share = share_unlike(found, kept)
    if share > MOST:
        Image.fromarray(found).save(tmp_path / f"{name}.png")
    assert share <= MOST, (
        f"expected the figure of {FOLDER.name}/{name}.png; {share:.2%} of the pixels of {tmp_path / name}.png are others; if it is "
        "to look so, call `make baselines`"
    )


def test_what_the_comparison_sees() -> None:
    """A title, a label, a legend, a color map and a moved label are seen; rounding of the data is not.

    Of two words of a length few pixels differ: what labels say is tested where their plots are.
    """
    import matplotlib.pyplot as plt

    def picture(change: Callable[[Any], Any] = lambda ax: None, noise: float = 0.0) -> np.ndarray:
        with plt.style.context("default"):
            mpl.rcParams["text.hinting"] = "none"
            figure, ax = plt.subplots(figsize=(4, 3))
            x = np.linspace(0, 6, 60)
            ax.scatter(x, np.sin(x) + noise * even(60), c=x, label="sine")
            ax.set(title="A title", xlabel="what is below", ylabel="what is beside")
            ax.legend()
            where = places(figure)
            change(ax)
            return pixels(figure, where)

    kept = picture()
    assert share_unlike(picture(noise=1e-6), kept) == 0
    changes: dict[str, Callable[[Any], Any]] = {
        "title": lambda ax: ax.set_title("Another"),
        "label": lambda ax: ax.set_xlabel("depth"),
        "moved label": lambda ax: setattr(ax.xaxis, "labelpad", 10),
        "legend": lambda ax: ax.get_legend().remove(),
        "color map": lambda ax: ax.collections[0].set_cmap("plasma"),
        "one point": lambda ax: ax.collections[0].set_offsets(np.roll(ax.collections[0].get_offsets(), 1, axis=1)),
    }
    for name, change in changes.items():
        assert share_unlike(picture(change), kept) > MOST, name
    assert share_unlike(kept[:-5], kept) == 1


def write() -> None:
    """Draw all baselines again."""
    from PIL import Image

    mpl.use("Agg")
    stp.settings.progress = False
    FOLDER.mkdir(exist_ok=True)
    where = {}
    for name in DRAWINGS:
        picture, where[name] = drawn(name)
        Image.fromarray(picture).save(FOLDER / f"{name}.png", optimize=True)
    (FOLDER / "places.json").write_text(json.dumps(where, indent=1).replace("\n   ", "").replace("\n  ]", "]") + "\n")


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    write()
