"""Which settings a call without options has: wider context, standardizing per section, nuclei, random filters.

    python benchmarks/defaults.py [--data ../shared/data] [--seeds 3] [--parts context scaling kinds]

Settings must not be chosen on the sections that `docs/results.md` reports, so this compares them on other data:

- `mob`: four sections of mouse olfactory bulb (`st_mob`), one left out at a time (the animals are not certain, so every
  score is marked leaky); the 250 genes of the highest mean on the training sections.
- `gbm`: five programme scores of a glioblastoma section (`gbm_visium`), four blocks behind a buffer as wide as the widest
  view of the table requires. There are no counts: the score is the correlation, and no deviance.
- `own`: simulated cohorts of four patients (one section of 100 spots each) whose genes depend on the tissue of the spot alone.
- `around`: the same with genes that depend on the tissue within 1.5 pitches as well (`neighborhood=1`).

Both real pictures have 4 to 5 µm per pixel, on which no nucleus can be measured: nuclei are compared on simulated pictures.

**The rule, stated before anything was run.** Settings are tried in the order of the parts, each against what has been
adopted before it. The score is the correlation with Pearson residuals (with the scores themselves on `gbm`), mean over the
quarter of the genes with the highest noise ceiling, and over `ridge` and `mlp`. A setting is adopted when its gain, mean
over the data sets, is above 0, and in no data set below minus two standard errors of the paired differences over its sections,
blocks or cohorts. Of several that pass, the one with the highest mean is taken. The deviance explained stands beside.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from gbm_scores import read_gbm

import stpredict as stp

MODELS = ("ridge", "mlp")
SCALES = (1, 2, 3, 5)  # multiples of the 112 µm of a tile
VIEWS: dict[str, tuple[int, ...]] = {
    "1": (1,), "1 and 2": (1, 2), "1 and 3": (1, 3), "1 and 5": (1, 5), "1, 3 and 5": (1, 3, 5), "3 alone": (3,),
}  # fmt: skip
WIDE, SCALING = "1 and 5", "section"  # adopted by the parts before
FINE = ("nuclei", "random-filters")
BEST = 0.25  # share of the genes, by ceiling, that the score is averaged over
_OPTIONS: dict[str, Any] = {"baselines": False, "progress": False}


def slots_of(view: str) -> list[str]:
    """Slots of color and texture that together are what `context=` gives."""
    return [f"view-{scale}" for scale in VIEWS[view]]


def featurize(adata: AnnData, others: tuple[str, ...]) -> None:
    """Compute every field of view once, and other kinds of features."""
    for scale in SCALES:
        stp.pp.image_features(adata, context=(scale,), key_added=f"X_view-{scale}")
    for name in others:
        stp.pp.image_features(adata, name)


def read_mob(data: Path) -> AnnData:
    """Four sections, each a patient of its own, since one is left out at a time."""
    adata = stp.io.read_st(data / "st_mob", patient="mouse")
    stp.pp.normalize(adata)
    return adata


def simulated(seed: int, neighborhood: float, out: Path) -> AnnData:
    """A cohort of four patients; the genes that the tissue has no part in are left out of the scores."""
    images = out / f"images-{seed}-{neighborhood:g}"
    adata = stp.datasets.synthetic_cohort(4, 1, 60, seed, n_spots=100, neighborhood=neighborhood, image_dir=images)
    stp.pp.normalize(adata)
    return adata


def scores_of(adata: AnnData, models: dict[str, Any], name: str) -> pd.DataFrame:
    """One row per model, unit (section, block or cohort) with the score and the deviance explained."""
    if name == "gbm":
        target = stp.targets.Values(obsm="scores")
        table = stp.tl.cross_validate(adata, models, "blocks", target=target, metrics=["pearson"], **_OPTIONS)
        table = table.assign(score=table["pearson"], deviance_explained=np.nan)
        unit = "block"
    else:
        panel = {"method": "mean", "n_genes": 250} if name == "mob" else list(adata.var_names[adata.var["signal"]])
        target = stp.targets.Expression(panel=panel)
        metrics = ["pearson", "pearson_residual", "deviance_explained"]
        splitter = "section" if name == "mob" else "patient"
        table = stp.tl.cross_validate(
            adata, models, splitter, target=target, metrics=metrics, allow_leakage=name == "mob", **_OPTIONS
        )
        ceiling = table.groupby("gene", observed=True)["residual_ceiling"].mean()
        best = ceiling.nlargest(max(1, round(BEST * len(ceiling)))).index
        table = table[table["gene"].isin(best)].assign(score=lambda frame: frame["pearson_residual"])
        unit = "sample"
    table = table.rename(columns={unit: "unit"})
    return table.groupby(["model", "unit"], observed=True)[["score", "deviance_explained"]].mean().reset_index()


def compared(sets: dict[str, list[AnnData]], settings: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Scores of all settings, one row per data set, unit, setting and model."""
    tables = []
    for name, objects in sets.items():
        for number, adata in enumerate(objects):
            models = {
                f"{label}|{model}": fitting(adata, model, features)
                for label, features in settings.items()
                if all(f"X_{slot}" in adata.obsm for slot in features["slot"])
                for model in MODELS
            }
            found = scores_of(adata, models, name)
            tables.append(found.assign(data=name, unit=found["unit"] if len(objects) == 1 else str(number)))
    table = pd.concat(tables)
    table[["setting", "model"]] = table["model"].str.split("|", expand=True).to_numpy()
    keys = ["data", "unit", "setting", "model"]
    return table.groupby(keys, sort=False)[["score", "deviance_explained"]].mean().reset_index()


def fitting(adata: AnnData, model: str, features: dict[str, Any]) -> dict[str, Any]:
    """A model on features; in a ridge, color and texture weigh as much as any kind beside them."""
    slots = features["slot"]
    views = [slot for slot in slots if slot.startswith("view")]
    widths = [adata.obsm[f"X_{slot}"].shape[1] for slot in slots]
    kinds = [sum(widths[: len(views)]), *widths[len(views) :]]
    even = {"hyperparameters": {"kinds": kinds}} if model == "ridge" and len(kinds) > 1 else {}
    return {"model": model, "features": features, **even}


def verdict(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Gains over a setting by data set with two standard errors, their mean, and whether the rule adopts it."""
    wide = table.groupby(["setting", "data", "unit"])["score"].mean().unstack("setting")
    rows = {}
    for setting in dict.fromkeys(table["setting"]):
        if setting == reference:
            continue
        gain = (wide[setting] - wide[reference]).dropna()
        by_data = gain.groupby("data")
        mean, noise = by_data.mean(), 2 * by_data.std(ddof=1) / np.sqrt(by_data.size())
        cells = {name: f"{mean[name]:+.3f} ± {noise[name]:.3f}" for name in mean.index}
        passes = mean.mean() > 0 and bool((mean >= -noise).all())
        rows[setting] = cells | {"mean": f"{mean.mean():+.4f}", "adopted": "yes" if passes else "no"}
    return pd.DataFrame(rows).T


def report(title: str, sets: dict[str, list[AnnData]], settings: dict[str, dict[str, Any]], reference: str) -> None:
    """Print scores, and gains over the first setting."""
    start = time.perf_counter()
    table = compared(sets, settings)
    order = [label for label in settings if label in set(table["setting"])]
    for column in ("score", "deviance_explained"):
        means = table.pivot_table(index="setting", columns=["model", "data"], values=column, sort=False)
        print(f"\n{title}: {column.replace('_', ' ')}\n{means.loc[order].round(3).to_string()}")
    print(f"\n{title}: gain in score over {reference!r} ± two standard errors\n{verdict(table, reference).to_string()}")
    print(f"({time.perf_counter() - start:.0f} s)", flush=True)


def spec(view: str, scaling: str, *others: str) -> dict[str, Any]:
    """Features of a model: color and texture in a view, and other kinds beside it."""
    return {"slot": [*slots_of(view), *others], "scaling": scaling}


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("out/defaults"), help="where features are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", nargs="*", default=["context", "scaling", "kinds"])
    options = parser.parse_args()
    stp.settings.progress = False
    stp.settings.cache_dir = options.out
    sets = {
        "mob": [read_mob(options.data)],
        "gbm": [read_gbm(options.data / "gbm_visium", every=2)],
        "own": [simulated(seed, 0.0, options.out) for seed in range(options.seeds)],
        "around": [simulated(seed, 1.0, options.out) for seed in range(options.seeds)],
    }
    for name, objects in sets.items():
        for adata in objects:
            featurize(adata, FINE[1:] if name in {"mob", "gbm"} else FINE)
        print(f"{name}: {sum(each.n_obs for each in objects)} observations", flush=True)
    if "context" in options.parts:
        report("context", sets, {view: spec(view, "global") for view in VIEWS}, "1")
    if "scaling" in options.parts:
        settings = {
            f"{view}, {scaling}": spec(view, scaling) for view in ("1", WIDE) for scaling in ("global", "section")
        }
        report("scaling", sets, settings, f"{WIDE}, global")
    if "kinds" in options.parts:
        added = ((), FINE[:1], FINE[1:], FINE)
        settings = {" + ".join(("color-texture", *names)): spec(WIDE, SCALING, *names) for names in added}
        report("kinds", sets, settings, "color-texture")


if __name__ == "__main__":
    main()
