"""Nuclei: how many are found on tissue where they are known, and what they add to other features on real sections.

    python benchmarks/nuclei.py [--parts known sections graphs memory] [--data ../shared/data/her2st]
        [--out FILE.h5ad]

`known`: F1, precision and recall on simulated tissue, matched one to one within 4 µm, in total and by kind of nucleus.

`sections`: sections B4 (one patient) and C2 to C5 (another) of the HER2-positive breast cohort, normalized by
`pp.normalize` as it is (Pearson residuals within a section, depth as exposure) and scored by `tl.evaluate`. The genes are
those whose residuals are measured best: the mean over sections of `tl.noise_ceiling`. A ridge on features that are
standardized within sections; where there are several kinds of them, all kinds have the same variance in all
(`kinds="slots"`), but for the line that says `unweighted`. A cell holds, averaged over genes within a section, then over
sections, Pearson's r, the same given the depth of the spot, and the share of the Poisson deviance that is explained.

- `within C`: leave one section out among C2 to C5. The other sections of the patient are in training: leaky.
- `C to B4` and `B4 to C`: patients apart.

`MobileNetV2 (200)` are the first 200 principal components of its features over the training spots, after these were
standardized within their sections.

`graphs`: the same sections, genes and scores for networks on graphs of nuclei, `igi_dl` (the graph alone; the graph beside frozen
color-texture, GIN and GCN; color-texture alone through the same perceptron), in a small setting: 3 layers of 64, a perceptron
of 64, 25 spots a step, at most 30 epochs chosen on an inner validation. Beside them a ridge on color-texture with context, on nuclei with context and
on random filters, and on color-texture and nuclei together. `sd` is that of r over three seeds. The patch through a ResNet-18 that is trained along takes hours on two
cores and has no line.

`memory`: what a training step and a prediction of `igi_dl` at its published size on the graphs of 5,000 spots take above what was in use before, and
what the super-patches of a map of 5,000 cells with 500 channels take, each in a process of its own.

The nuclei that `pp.nuclei` finds are kept in `--out`, where a file is named, and not looked for again.

Nothing was chosen on these sections but the genes, which are the same in every line: thresholds of the segmentation were
set on simulated tissue with other seeds than those of `known`, the filters are random and were drawn once. That kinds
should weigh the same was suspected here, and decided on simulated cohorts.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData

import stpredict as stp

SECTIONS = ["B4", "C2", "C3", "C4", "C5"]
WITHIN_UM = 4.0
DIRECTIONS = ("within C (leaky)", "C to B4", "B4 to C")
COLOR, NUCLEI, WIDE_NUCLEI, RANDOM = "color-texture", "nuclei", "known", "random-filters"
IMAGENET, IMAGENET_200 = "mobilenet_v2", "mobilenet_v2_200"
METRICS = ["pearson", "pearson_given_depth", "deviance_explained"]
ROWS = {
    "color-texture with context": [COLOR],
    "nuclei": [NUCLEI],
    "nuclei with context": [WIDE_NUCLEI],
    "random filters": [RANDOM],
    "color-texture + nuclei": [COLOR, NUCLEI],
    "color-texture + nuclei with context": [COLOR, WIDE_NUCLEI],
    "color-texture + random filters": [COLOR, RANDOM],
    "color-texture + nuclei + random filters": [COLOR, NUCLEI, RANDOM],
    "MobileNetV2": [IMAGENET],
    "MobileNetV2 (200)": [IMAGENET_200],
    "color-texture + MobileNetV2": [COLOR, IMAGENET],
    "color-texture + MobileNetV2, unweighted": [COLOR, IMAGENET],
    "color-texture + MobileNetV2 (200)": [COLOR, IMAGENET_200],
    "color-texture + nuclei + MobileNetV2 (200)": [COLOR, NUCLEI, IMAGENET_200],
    "color-texture + nuclei with context + MobileNetV2": [COLOR, WIDE_NUCLEI, IMAGENET],
    "color-texture + nuclei with context + MobileNetV2 (200)": [COLOR, WIDE_NUCLEI, IMAGENET_200],
    "color-texture + nuclei + random filters + MobileNetV2 (200)": [COLOR, NUCLEI, RANDOM, IMAGENET_200],
}
CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "density x 0.4": {"density": 0.4},
    "density x 2.5": {"density": 2.5},
    "stain varied more": {"stain_shift": 0.4},
    "0.25 µm/px": {"microns_per_pixel": 0.25},
    "1.0 µm/px": {"microns_per_pixel": 1.0},
    "blurred by 1 µm": {"blur_um": 1.0},
    "blurred by 1.5 µm": {"blur_um": 1.5},
}


def matched(truth: np.ndarray, found: np.ndarray, within: float) -> int:
    """Pairs of points, (n, 2) and (m, 2), that lie within a distance of each other, one to one."""
    from scipy.sparse.csgraph import maximum_bipartite_matching
    from scipy.spatial import KDTree

    if not len(truth) or not len(found):
        return 0
    near = KDTree(truth).sparse_distance_matrix(KDTree(found), within, output_type="coo_matrix").tocsr()
    near.data[:] = 1
    return int((maximum_bipartite_matching(near) >= 0).sum())


def on_known(seeds: range, blur_um: float = 0.0, microns_per_pixel: float = 0.5, **options: Any) -> dict[str, float]:
    """Scores over several pictures, as a user would get them: `pp.nuclei` on an AnnData."""
    from scipy.ndimage import gaussian_filter

    n_true = n_found = hits = 0
    by_kind: dict[str, list[int]] = {}
    for seed in seeds:
        image, truth = stp.datasets.synthetic_nuclei(400, microns_per_pixel=microns_per_pixel, seed=seed, **options)
        if blur_um:
            sigma = blur_um / microns_per_pixel
            image = gaussian_filter(image.astype(np.float32), (sigma, sigma, 0)).round().astype(np.uint8)
        height, width = image.shape[:2]
        adata = AnnData(np.zeros((1, 1)), obs=pd.DataFrame({"sample": "s"}, index=["0"]))
        adata.obsm["spatial"] = np.array([[width / 2, height / 2]])
        stp.pp.nuclei(adata, image=image, microns_per_pixel=microns_per_pixel, progress=False)
        found = stp.get.nuclei(adata)[["x", "y"]].to_numpy()
        where, within = truth[["x", "y"]].to_numpy(), WITHIN_UM / microns_per_pixel
        n_true, n_found, hits = n_true + len(where), n_found + len(found), hits + matched(where, found, within)
        for kind, rows in truth.groupby("kind", observed=True).indices.items():
            counts = by_kind.setdefault(str(kind), [0, 0])
            counts[0] += matched(where[rows], found, within)
            counts[1] += len(rows)
    recall = {f"{kind} found": counts[0] / counts[1] for kind, counts in sorted(by_kind.items())}
    scores = {"F1": 2 * hits / (n_true + n_found), "precision": hits / n_found, "recall": hits / n_true}
    return {"nuclei": n_true, **scores, **recall}


def known() -> None:
    table = pd.DataFrame({name: on_known(range(1000, 1006), **case) for name, case in CASES.items()}).T
    print(table.astype({"nuclei": int}).round(3).to_string(), "\n")
    image, _ = stp.datasets.synthetic_nuclei(400, seed=1000)
    gray = np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    for name, picture in {"gray": gray, "white": np.full_like(image, 255)}.items():
        adata = AnnData(np.zeros((1, 1)), obs=pd.DataFrame({"sample": "s"}, index=["0"]))
        adata.obsm["spatial"] = np.array([[400.0, 400.0]])
        stp.pp.nuclei(adata, image=picture, microns_per_pixel=0.5, progress=False)
        print(f"nuclei in a {name} picture: {len(stp.get.nuclei(adata))}")


def find_nuclei(adata: AnnData, out: Path | None) -> None:
    """`pp.nuclei`, or what it found before."""
    if out is None or not out.is_file():
        stp.pp.nuclei(adata, progress=False)
        if out is not None:
            found = {"nuclei": adata.uns["nuclei"], "record": adata.uns["stpredict"]["nuclei"]}
            AnnData(uns=found).write_h5ad(out)
        return
    kept = ad.read_h5ad(out).uns
    adata.uns["nuclei"], adata.uns["stpredict"]["nuclei"] = kept["nuclei"], kept["record"]


def read(
    data: Path, n_genes: int, *, imagenet: bool = True, out: Path | None = None
) -> tuple[AnnData, list[str], float]:
    """Sections with residuals and all features, the genes that are measured best, and their mean ceiling."""
    adata = stp.io.read_her2st(data, sections=SECTIONS)
    stp.pp.normalize(adata)
    stp.tl.noise_ceiling(adata)
    best = adata.varm["noise_ceiling"].fillna(0).mean(axis=1).nlargest(n_genes)  # NaN where a section has hardly any
    for encoder, options in {COLOR: {"context": (1, 3)}, NUCLEI: {}, RANDOM: {}}.items():
        start = perf_counter()
        stp.pp.image_features(adata, encoder, cache=False, progress=False, **options)
        print(f"{encoder}: {perf_counter() - start:.0f} s for {adata.n_obs} spots")
    start = perf_counter()
    find_nuclei(adata, out)
    stp.pp.nuclei_features(adata, context=(1, 3), key_added=f"X_{WIDE_NUCLEI}")
    n = sum(len(stp.get.nuclei(adata, name)) for name in SECTIONS)
    print(f"pp.nuclei: {perf_counter() - start:.0f} s for {n} nuclei")
    weights = data.parent / "encoders" / "mobilenet_v2.safetensors"
    if imagenet and weights.is_file():
        stp.pp.image_features(adata, IMAGENET, weights=str(weights), progress=False)
    return adata, list(best.index), float(best.mean())


def write_components(adata: AnnData, train: np.ndarray, n_components: int = 200) -> None:
    """Principal components over the training spots (a mask) of features that are standardized within sections."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    values = np.asarray(adata.obsm[f"X_{IMAGENET}"], dtype=np.float64)
    for rows in adata.obs.groupby("sample", observed=True).indices.values():
        values[rows] = StandardScaler().fit_transform(values[rows])
    fitted = PCA(n_components, svd_solver="covariance_eigh").fit(values[train])
    adata.obsm[f"X_{IMAGENET_200}"] = fitted.transform(values).astype(np.float32)
    record = adata.uns["stpredict"][f"X_{IMAGENET}"]
    adata.uns["stpredict"][f"X_{IMAGENET_200}"] = {"encoder": IMAGENET_200, "tile_um": record["tile_um"]}


def tests() -> dict[str, list[tuple[list[str], str]]]:
    """Training sections and the test section of every direction."""
    inner = [name for name in SECTIONS if name.startswith("C")]
    return {
        DIRECTIONS[0]: [([n for n in inner if n != name], name) for name in inner],
        DIRECTIONS[1]: [(inner, "B4")],
        DIRECTIONS[2]: [(["B4"], name) for name in inner],
    }


def scores(adata: AnnData, genes: list[str], rows: dict[str, list[str]]) -> pd.DataFrame:
    """Mean scores (lines × directions and metrics) of a ridge on each choice of features."""
    sample = adata.obs["sample"].astype(str).to_numpy()
    found = []
    for direction, pairs in tests().items():
        models: dict[str, Any] = {}
        on = None
        for train, test in pairs:
            if on != train:
                on, chosen = train, np.isin(sample, train)
                if f"X_{IMAGENET}" in adata.obsm:
                    write_components(adata, chosen)
                models = {
                    name: stp.tl.fit(
                        adata, "ridge", chosen, features={"slot": slots, "scaling": "section"}, target=genes,
                        baselines=False,
                        hyperparameters=None if "unweighted" in name else {"kinds": "slots"},
                    )
                    for name, slots in rows.items()
                }  # fmt: skip
            part = adata[sample == test].copy()
            for name, model in models.items():
                stp.tl.predict(part, model)
                table = stp.tl.evaluate(part, metrics=METRICS, ceiling=False)
                found.append({"features": name, "test": direction, **table[METRICS].mean()})
            print(f"{direction}: {test} done", flush=True)
    return pd.DataFrame(found).groupby(["features", "test"], sort=False).mean().unstack("test")


def sections(data: Path, n_genes: int, out: Path | None) -> None:
    adata, genes, mean_ceiling = read(data, n_genes, out=out)
    print(f"{n_genes} genes of mean ceiling {mean_ceiling:.2f}: {', '.join(genes[:8])}, …")
    there = {name.removeprefix("X_") for name in adata.obsm} | (
        {IMAGENET_200} if f"X_{IMAGENET}" in adata.obsm else set()
    )
    rows = {name: slots for name, slots in ROWS.items() if set(slots) <= there}
    table = scores(adata, genes, rows)
    width = {name: values.shape[1] for name, values in adata.obsm.items()}
    shown = pd.DataFrame({"numbers": {name: sum(width[f"X_{slot}"] for slot in slots) for name, slots in rows.items()}})
    for direction in DIRECTIONS:
        cells = [table[metric, direction].map("{:.3f}".format) for metric in METRICS]
        shown[direction] = cells[0] + " | " + cells[1] + " | " + cells[2]
    print("\n" + " | ".join(METRICS) + "\n" + shown.to_string())


def network_lines() -> dict[str, dict[str, Any]]:
    """Networks and ridges of the part `graphs`, by name."""
    small = {"n_layers": 3, "n_hidden": 64, "mlp": (64,), "image_encoder": "features"}
    training = {"max_epochs": 30, "patience": 8, "batch_size": 25, "learning_rate": 1e-3}
    networks = {
        "igi_dl: graph": {"branches": "graph"},
        "igi_dl: color-texture": {"branches": "image"},
        "igi_dl: graph + color-texture": {},
        "igi_dl: graph (GCN) + color-texture": {"conv": "gcn"},
    }
    ridges: dict[str, list[str]] = {
        "color-texture with context": [COLOR], "nuclei with context": [WIDE_NUCLEI], "random filters": [RANDOM],
        "color-texture + nuclei with context": [COLOR, WIDE_NUCLEI],
    }  # fmt: skip
    weighed = {"hyperparameters": {"kinds": "slots"}}
    return {f"ridge: {name}": {"model": "ridge", "features": slots, **weighed} for name, slots in ridges.items()} | {
        name: {"model": "igi_dl", "features": COLOR, "hyperparameters": small | options, "training": training}
        for name, options in networks.items()
    }


def graphs(data: Path, n_genes: int, out: Path | None, n_seeds: int = 3) -> None:
    """Scores of networks on graphs of nuclei with patients apart, beside ridges."""
    stp.settings.progress = False
    adata, genes, mean_ceiling = read(data, n_genes, imagenet=False, out=out)
    print(f"{n_genes} genes of mean ceiling {mean_ceiling:.2f}")
    sample = adata.obs["sample"].astype(str).to_numpy()
    found = []
    for name, line in network_lines().items():
        start = perf_counter()
        for direction, pairs in list(tests().items())[1:]:
            train = np.isin(sample, pairs[0][0])
            for seed in range(1 if line["model"] == "ridge" else n_seeds):
                options = {key: value for key, value in line.items() if key not in ("model", "features")}
                model = stp.tl.fit(
                    adata, line["model"], train, target=genes, baselines=False, seed=seed,
                    features={"slot": line["features"], "scaling": "section"}, **options,
                )  # fmt: skip
                part = adata[~train].copy()
                stp.tl.predict(part, model)
                table = stp.tl.evaluate(part, metrics=METRICS, ceiling=False)
                means = table.groupby("sample", observed=True)[METRICS].mean().mean()
                found.append({"model": name, "test": direction, "seed": seed, **means})
        print(f"{name}: {perf_counter() - start:.0f} s", flush=True)
    table = pd.DataFrame(found).groupby(["model", "test"], sort=False)[METRICS]
    mean, spread = table.mean(), table.std()["pearson"]
    cells = mean.map("{:.3f}".format).agg(" | ".join, axis=1)
    cells += [f" (sd {value:.3f})" if np.isfinite(value) else "" for value in spread]
    print("\n" + " | ".join(METRICS) + "\n" + cells.unstack("test", sort=False).to_string())


def memory(what: str | None = None) -> None:
    """Peak memory of graphs, each measured in a process of its own."""
    import subprocess
    import sys

    if what is None:
        for name in ("step of igi_dl", "prediction of igi_dl", "super-patches"):
            subprocess.run([sys.executable, __file__, "--parts", "memory", "--measure", name], check=True)
        return
    import torch
    from her2st import resident

    from stpredict.training import ArraySet, Ragged, predict_arrays

    rng = np.random.default_rng(0)
    if what == "super-patches":
        from stpredict.models.nn._super_patches import merge_cells, neighboring_cells

        values = rng.normal(size=(5041, 500)).astype(np.float32)
        pairs = neighboring_cells(np.ones((71, 71), dtype=bool), "square")
        before = resident("VmRSS")
        merged = merge_cells(values, pairs, within=2.0, rounds=4)
        said = f"{len(values)} cells with 500 channels, {len(merged.size)} super-patches"
    else:
        from stpredict.tl.learn.inputs._nuclei_graph import graphs_around

        side, pitch = 71, 100.0
        centers = np.stack(np.divmod(np.arange(side**2), side), axis=1)[:5000] * pitch
        xy = rng.uniform(-pitch, side * pitch, (int(5000 * 40), 2))
        nodes, n_nodes, links, n_links = graphs_around(xy, centers, pitch, 20.0)
        measures = rng.normal(size=(len(xy), 85)).astype(np.float32)
        zeros = np.zeros(5000, dtype=np.int64)
        inputs = {
            "nuclei_graph": Ragged(measures[nodes], n_nodes), "n_nuclei": n_nodes, "nuclei_links": Ragged(links, n_links), "n_links": n_links,
        }  # fmt: skip
        data = ArraySet(zeros, zeros, inputs, target=np.zeros((5000, 179), np.float32))
        options = stp.models.get_model("igi_dl").options("paper") | {"branches": "graph"}
        network = stp.models.build("igi_dl", 179, {"nuclei_graph": 85}, hyperparameters=options, seed=0)
        before = resident("VmRSS")
        if what == "step of igi_dl":
            batch = data.batch(np.arange(5000), network.needs)
            network.step(batch, network.stages[0])["total"].backward()
        else:
            predict_arrays(network, data)
        said = f"5000 spots, {len(nodes)} nuclei, {len(links)} links, threads {torch.get_num_threads()}"
    print(f"{what}: {said}: {resident('VmHWM') - before:.2f} GB", flush=True)


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["known", "sections", "graphs", "memory"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts[:2])
    parser.add_argument("--out", type=Path, help="where the nuclei of the sections are kept")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/her2st"))
    parser.add_argument("--genes", type=int, default=50)
    arguments = parser.parse_args()
    if "known" in arguments.parts:
        known()
    if "sections" in arguments.parts:
        sections(arguments.data, arguments.genes, arguments.out)
    if "graphs" in arguments.parts:
        graphs(arguments.data, arguments.genes, arguments.out)
    if "memory" in arguments.parts:
        memory(arguments.measure)


if __name__ == "__main__":
    main()
