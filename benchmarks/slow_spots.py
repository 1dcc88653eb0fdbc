"""What once grew with the square of spots or genes, as ratios of times that are taken in one run.

`neighbors`: the neighbors of 20,000 spots, not remembered, against `scipy.spatial.cKDTree` for as many of each.
`hypergraph`: distances of all pairs held for their second use against computed twice.
`grid`: a step of `hist` on a section, contiguous in memory against channels last (a CPU only).
`evaluate`: 20,000 genes of 200 spots, all of them named against none named.
`cross_validate`: 20,000 genes against 5,000, and the share of the earth mover's distance in the time.

Times are those of the processor, one thread, the least of some repeats; each has its limit beside it, where it has one.

python benchmarks/slow_spots.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from time import process_time
from typing import Any

import numpy as np
import torch

_NEIGHBORS = (4, 7, 8)


def seconds(function: Callable[[], Any], repeats: int = 1) -> float:
    times = []
    for _ in range(repeats):
        start = process_time()
        function()
        times.append(process_time() - start)
    return min(times)


def line(what: str, ours: float, other: float, limit: float | None = None) -> None:
    allowed = "" if limit is None else f"at most {limit:g}"
    print(f"{what:52}{ours:9.3f} s{other:9.3f} s{ours / other:8.2f}   {allowed}", flush=True)


def hexagons(n_rows: int, n_cols: int, pitch: float = 100.0) -> np.ndarray:
    row, col = np.divmod(np.arange(n_rows * n_cols), n_cols)
    return np.column_stack([(col + 0.5 * (row % 2)) * pitch, row * pitch * np.sqrt(3) / 2])


def compare_neighbors(repeats: int) -> None:
    from scipy.spatial import cKDTree

    from stpredict.models.nn import _graph

    anywhere = np.random.default_rng(0).random((20_000, 2)) * 1e4
    for name, xy in (("hexagons", hexagons(100, 200)), ("anywhere", anywhere)):
        positions = torch.from_numpy(xy).float()
        as_read = positions.double().numpy()
        for k in _NEIGHBORS:

            def ours(positions: torch.Tensor = positions, k: int = k) -> None:
                _graph._found.cache_clear()
                _graph.spatial_neighbors(positions, k)

            ours()
            times = seconds(ours, repeats)
            tree = seconds(lambda xy=as_read, k=k: cKDTree(xy).query(xy, k=k + 1), repeats)
            line(f"neighbors, 20,000 spots, {name}, {k} of each", times, tree, 3)
    again = seconds(lambda: _graph.spatial_neighbors(positions, k), repeats)
    line("  the same, asked for again", again, tree)


def compare_hypergraph(n_spots: int, repeats: int) -> None:
    from stpredict.models.nn import _graph

    features, positions = torch.randn(n_spots, 1024), torch.rand(n_spots, 2)

    def ours() -> None:
        _graph.hypergraph(features, positions, 3)

    held = seconds(ours, repeats)
    kept, _graph._KEPT = _graph._KEPT, 0
    twice = seconds(ours, repeats)
    _graph._KEPT = kept
    line(f"hypergraph, {n_spots:,} spots, held / twice", held, twice)


def compare_grid(repeats: int) -> None:
    from stpredict.models import Batch, Shape
    from stpredict.models._hist import Hist, HistConfig
    from stpredict.models.base._grid import Placement

    cell = torch.cartesian_prod(torch.arange(80), torch.arange(64))
    section = torch.zeros(len(cell), dtype=torch.long)
    inputs = {"features": torch.randn(len(cell), 1024), "cell": cell}
    batch = Batch(section, section, inputs, target=torch.randn(len(cell), 346))
    network = Hist(HistConfig(), Shape(346, {"features": 1024}))
    network.train()

    def step() -> None:
        network.loss(network(batch), batch)["total"].backward()

    scatter = Placement.scatter

    def channels_last(self: Placement, values: torch.Tensor) -> torch.Tensor:
        return scatter(self, values).contiguous(memory_format=torch.channels_last)

    step()
    ours = seconds(step, repeats)
    Placement.scatter = channels_last  # type: ignore[method-assign]
    other = seconds(step, repeats)
    Placement.scatter = scatter  # type: ignore[method-assign]
    line("grid, step of hist on 80 x 64, contiguous / not", ours, other)


def compare_evaluate(n_genes: int, repeats: int) -> None:
    import anndata as ad
    import pandas as pd

    import stpredict as stp

    rng, n = np.random.default_rng(0), 200
    place = pd.DataFrame(
        {"sample": "s", "patient": "p", "array_row": np.arange(n) // 10, "array_col": np.arange(n) % 10}
    )
    adata = ad.AnnData(rng.poisson(1, (n, n_genes)).astype(np.float32), place.set_axis([f"o{i}" for i in range(n)]))
    adata.var_names = [f"g{i}" for i in range(n_genes)]
    adata.obsm["spatial"] = place[["array_col", "array_row"]].to_numpy() * 100.0
    stp.pp.normalize(adata)
    adata.obsm["predicted"] = pd.DataFrame(rng.random(adata.shape), adata.obs_names, adata.var_names)
    genes = list(adata.var_names)[::-1]
    for name, options in (("pearson alone", {"metrics": ["pearson"], "ceiling": False}), ("defaults", {})):

        def score(genes: list[str] | None, options: dict[str, Any] = options) -> None:
            stp.tl.evaluate(adata, genes=genes, baselines=False, **options)

        score(genes[:20])
        named, whole = (seconds(lambda g=g: score(g), repeats if options else 1) for g in (genes, None))
        line(f"evaluate, {n_genes:,} genes, {name}, named / not", named, whole, 2)


def compare_cross_validate(n_genes: tuple[int, int]) -> None:
    import stpredict as stp
    from stpredict import metrics

    stp.settings.progress = False
    emd, spent = metrics.emd, [0.0]

    def timed(*args: Any, **options: Any) -> np.ndarray:
        start = process_time()
        found = emd(*args, **options)
        spent[0] += process_time() - start
        return found

    metrics.emd = timed
    _cross_validated(stp, 20)  # imports
    few, many = (_cross_validated(stp, n) for n in n_genes)
    line(f"cross_validate (ridge), {n_genes[1]:,} / {n_genes[0]:,} genes", many, few, 4.5)
    for models, limit in ((["ridge"], 0.1), (["mean", "ridge", "mlp"], 0.1)):
        spent[0] = 0.0
        whole = _cross_validated(stp, 785, n_spots=203, n_patients=5, models=models)
        line(f"  emd, 1,015 x 785, of {', '.join(models)}", spent[0], whole, limit)
    metrics.emd = emd


def _cross_validated(
    stp: Any, n_genes: int, n_spots: int = 100, n_patients: int = 3, models: Sequence[str] = ("ridge",)
) -> float:
    adata = stp.datasets.synthetic_cohort(n_patients=n_patients, n_sections=1, n_spots=n_spots, n_genes=n_genes)
    stp.pp.image_features(adata)
    stp.pp.normalize(adata)
    return seconds(lambda: stp.tl.cross_validate(adata, models))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hypergraph-spots", type=int, default=5_000)
    parser.add_argument("--genes", type=int, default=20_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':52}{'ours':>11}{'other':>11}{'ratio':>8}")
    compare_neighbors(options.repeats)
    compare_hypergraph(options.hypergraph_spots, 1)
    compare_grid(options.repeats)
    compare_evaluate(options.genes, options.repeats)
    compare_cross_validate((options.genes // 4, options.genes))


if __name__ == "__main__":
    main()
