"""How large the page of `stp.pl.explore` is, and how long a browser takes until it shows it.

Needs the extra `viz`, playwright and Chromium. The values are noise, which compresses worst.

    python benchmarks/explore.py --spots 5000 --genes 500
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import stpredict as stp


def noise(n_spots: int, n_genes: int) -> ad.AnnData:
    """A section with a picture, measured and predicted values, and standard deviations, none of which says anything."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(n_spots**0.5))
    row, col = np.mgrid[:side, :side].reshape(2, -1)[:, :n_spots]
    obs = pd.DataFrame({"sample": "s", "patient": "p", "depth": rng.uniform(size=n_spots)})
    obs.index = [f"AAACAAGTATCTCCCA-{i}" for i in range(n_spots)]
    obs["domain"] = pd.Categorical(rng.integers(0, 8, n_spots).astype(str))
    genes = [f"GENE{i}" for i in range(n_genes)]
    adata = ad.AnnData(rng.normal(size=(n_spots, n_genes)).astype(np.float32), obs=obs, var=pd.DataFrame(index=genes))
    adata.obsm["spatial"] = np.column_stack([col, row]) * 100.0
    for name in ("predicted", "predicted_std"):
        adata.obsm[name] = pd.DataFrame(rng.normal(size=adata.shape).astype(np.float32), adata.obs_names, genes)
    picture = rng.integers(180, 255, (1200, 1200, 3), dtype=np.uint8)
    factors = {"tissue_hires_scalef": 1200 / (100 * side), "microns_per_pixel": 0.5, "spot_diameter_fullres": 60.0}
    adata.uns["spatial"] = {"s": {"images": {"hires": picture}, "scalefactors": factors}}
    return adata


def opened(path: Path, picture: Path | None) -> float:
    """Seconds from the address to both views drawn."""
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as driver:
        window = driver.chromium.launch(executable_path=browser, args=flags)
        page = window.new_page(viewport={"width": 1300, "height": 900})
        page.goto("about:blank")
        start = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_function("window.Bokeh && Bokeh.documents[0]?.is_idle")
        seconds = time.perf_counter() - start
        if picture is not None:
            page.screenshot(path=picture)
        window.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", type=int, default=5000)
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--picture", type=Path, help="PNG file for what the browser shows")
    args = parser.parse_args()
    adata = noise(args.spots, args.genes)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        stp.pl.explore(adata, Path(folder) / "page.html")
        made = time.perf_counter() - start
        size = (Path(folder) / "page.html").stat().st_size / 1e6
        shown = min(opened(Path(folder) / "page.html", args.picture) for _ in range(3))
    print(
        f"{args.spots} spots, {args.genes} genes: {size:.1f} MB, made in {made:.1f} s, opened in {shown:.1f} s (best of 3)"
    )


if __name__ == "__main__":
    main()
