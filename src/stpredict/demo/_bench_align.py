"""Alignment of images and expression as a benchmark: recall, the prediction of expression, and what is known of patients."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.cohorts import Fold
    from stpredict.training import FittedModel

_PANEL: dict[str, Any] = {"method": "moran", "min_i": 0.05, "n_genes": 200}
_MOST_GENES = 300  # of which all are taken where nobody has selected any
_K = (1, 5, 10)
_SLOT = "bench_aligned"
_UNALIGNED = {"genes": "", "objective": "", "batches": ""}
_WITHIN, _ACROSS = "within patients", "across patients"


def run_bench_align(
    data: Path | None,
    out: Path,
    *,
    images: Sequence[str] = ("color-texture",),
    genes: Sequence[str] = ("mlp", "pca"),
    objectives: Sequence[str] = ("clip", "siglip"),
    batches: Sequence[str] = ("across", "within"),
    controls: Sequence[str] = ("color-statistics", "random-filters"),
    scaling: str | None = None,
    n_folds: int | None = None,
    max_epochs: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Align every pair of encoders on the training side of every fold, judge it on the test side, and print a table.

    Writes `table.csv`, and what it is made of, `recall.csv`, `probe.csv` and `mixing.csv`, into `out`.

    Parameters
    ----------
    data
        Folder in the her2st layout, an `.h5ad` file, or `None` for a synthetic cohort.
    out
        Folder for the tables.
    images, genes, objectives, batches
        What is tried, in all combinations, see :func:`stpredict.tl.align`.
    controls
        Encoders, or slots of `obsm`, whose features are not aligned: what the prediction of expression has to be seen
        beside. Their difference is that from the first of `images`. Those that cannot be computed are named and left out.
    scaling
        Scaling of the features, `"section"` or `"global"`; the default of :func:`stpredict.tl.fit` when `None`.
    n_folds
        Folds of patients; when `None` two patients in each, or one where there are fewer than four.
    max_epochs
        Upper limit of epochs.
    seed
        Random seed for everything.

    Returns
    -------
    The table.
    """
    import pandas as pd

    import stpredict as stp

    started = time.perf_counter()
    adata = _read(data, out, seed)
    n_patients = adata.obs["patient"].nunique()
    folds = stp.cohorts.grouped_k_fold(adata, n_folds or (n_patients // 2 if n_patients > 3 else n_patients), seed=seed)
    chosen = "selected" in adata.var or adata.n_vars <= _MOST_GENES
    target = None if chosen else {"panel": _PANEL}
    training = {} if max_epochs is None else {"max_epochs": max_epochs}
    print(
        f"{adata.n_obs} observations, {adata.obs['sample'].nunique()} sections, {n_patients} patients, {len(folds)} folds; "
        f"genes: {'those given' if chosen else 'selected by Moran´s I inside each fold'}"
    )
    recalls, probes, mixings = [], [], []
    beside = _controls(adata, [name for name in controls if name not in images])
    for image in images:
        slot = _features(adata, image)
        before = stp.tl.batch_mixing(adata, slot, seed=seed).assign(what="features")
        models: dict[str, list[FittedModel]] = {}
        settings = {}
        read = _scaled(slot, scaling)
        for gene, objective, batch in product(genes, objectives, batches):
            setting = {"image": image, "genes": gene, "objective": objective, "batches": batch}
            label = f"{gene} {objective} {batch}"
            settings[label] = setting
            models[label] = []
            for fold in folds:
                model, recall, mixing = _aligned(
                    adata, read, setting, fold, target if gene in {"mlp", "pca"} else None, training, seed
                )
                models[label].append(model)
                recalls.append(recall.assign(**setting, fold=fold.name))
                mixings.append(mixing.assign(**setting, fold=fold.name, what="aligned"))
        others = {name: _scaled(own, scaling) for name, own in beside.items()}
        probe = stp.tl.linear_probe(
            adata, {"before": read, **models, **others}, folds, target=target, seed=seed, key_added="bench_probe"
        )
        probes.append(probe.assign(image=image))
        keys = [key for key in adata.obsm if key.startswith("bench_probe_") and not key.endswith("_std")]
        predicted = stp.tl.batch_mixing(adata, keys, seed=seed).assign(what="predictions")
        for label, key in zip(("before", *settings, *beside), keys, strict=True):
            setting = settings.get(label, {"image": label if label in beside else image} | _UNALIGNED)
            mixings.append(predicted[predicted["key"] == key].assign(**setting))
        mixings.append(before.assign(image=image, **_UNALIGNED))
        for name, own in beside.items():
            mixed = stp.tl.batch_mixing(adata, own, seed=seed)
            mixings.append(mixed.assign(what="features", image=name, **_UNALIGNED))
        beside = {}  # one line each
        for key in [*keys, *(f"{key}_std" for key in keys)]:
            adata.obsm.pop(key, None)
    recall, probe, mixing = (pd.concat(parts, ignore_index=True) for parts in (recalls, probes, mixings))
    table = summary_table(recall, probe, mixing)
    out.mkdir(parents=True, exist_ok=True)
    for name, part in (("table", table), ("recall", recall), ("probe", probe), ("mixing", mixing)):
        part.to_csv(out / f"{name}.csv", index=False)
    print("\n" + table.round(3).to_string(index=False))
    print(_explanation(n_patients, folds))
    print(f"\ntables: {out} ({time.perf_counter() - started:.0f} s)")
    return table


def summary_table(recall: pd.DataFrame, probe: pd.DataFrame, mixing: pd.DataFrame) -> pd.DataFrame:
    """One row per image encoder before alignment, one per alignment, and one per control."""
    import pandas as pd

    at = ["image", "genes", "objective", "batches"]
    pearson = probe[probe["metric"] == "pearson"]
    by_patient = mixing[mixing["by"] == "patient"]
    lines = []
    for image in dict.fromkeys(pearson["image"]):
        of_image = pearson[pearson["image"] == image].set_index("features")
        for label, scores in of_image.iterrows():
            words = str(label).rsplit(" ", 2)
            line: dict[str, Any] = {"image": image if label == "before" or len(words) == 3 else label} | _UNALIGNED
            if len(words) == 3:
                line |= dict(zip(at[1:], words, strict=True))
            own = recall[np.logical_and.reduce([recall[name] == value for name, value in line.items()])]
            for pool, name in ((_WITHIN, "within"), (_ACROSS, "across")):
                part = own[own["pool"] == pool]
                for direction, short in (("image to genes", "i>g"), ("genes to image", "g>i")):
                    line[f"{name} {short}"] = _mean(part[part["direction"] == direction], "recall@5")
                line[f"chance {name}"] = _mean(part, "chance@5")
            line["same patient"] = _mean(own[own["pool"] == _ACROSS], "same_patient_wrong")
            line |= {"r": scores["score"], "delta": scores["delta"]}
            line |= {"low": scores["delta_low"], "high": scores["delta_high"], "leaky": scores["leaky"]}
            mixed = by_patient[np.logical_and.reduce([by_patient[name] == line[name] for name in at])]
            features = mixed[mixed["what"] != "predictions"]
            line["mixing"] = features["mixing"].mean()
            line["mixing of predictions"] = mixed.loc[mixed["what"] == "predictions", "mixing"].mean()
            lines.append(line)
    return pd.DataFrame(lines)


def _mean(part: pd.DataFrame, column: str) -> float:
    """Mean over folds, in which every patient weighs the same."""
    if not len(part):
        return float("nan")
    return float(np.average(part[column], weights=part["n_patients"]))


def _aligned(
    adata: AnnData, read: Any, setting: dict[str, str], fold: Fold, target: Any, training: dict[str, Any], seed: int
) -> tuple[FittedModel, pd.DataFrame, pd.DataFrame]:
    """A model of the training side of a fold, its recall on the test side, and the mixing of all patients in its space."""
    import stpredict as stp

    options: dict[str, Any] = {"objective": setting["objective"], "batches": setting["batches"], "target": target}
    model = stp.tl.align(
        adata,
        read,
        setting["genes"],
        fold.train & measured(adata),
        training=training,
        seed=seed,
        key_added=_SLOT,
        **options,
    )
    recall = stp.tl.recall_at_k(adata, f"{_SLOT}_image", f"{_SLOT}_genes", _K, rows=fold.test, seed=seed)
    mixing = stp.tl.batch_mixing(adata, f"{_SLOT}_image", seed=seed)
    return model, recall, mixing


def measured(adata: AnnData) -> np.ndarray:
    """Mask (n_obs,) of observations whose expression was measured."""
    from stpredict.slots._expression import marked_measured

    return marked_measured(adata)


def _read(data: Path | None, out: Path, seed: int) -> AnnData:
    import anndata as ad

    import stpredict as stp
    from stpredict.demo._demo import read_sections

    if data is not None and data.suffix == ".h5ad":
        return ad.read_h5ad(data)
    if data is not None:
        adata = read_sections(data, out, seed)
    else:
        adata = stp.datasets.synthetic_cohort(
            n_patients=6, n_sections=1, n_genes=80, n_spots=150, seed=seed, image_dir=out / "images"
        )
    stp.pp.normalize(adata)
    return adata


def _features(adata: AnnData, image: str) -> str:
    """Slot of the features of an encoder, computed where they are not there."""
    import stpredict as stp

    for slot in (image, f"X_{image}"):
        if slot in adata.obsm:
            return slot
    stp.pp.image_features(adata, image)
    return f"X_{image}"


def _controls(adata: AnnData, names: Sequence[str]) -> dict[str, str]:
    """Slots of the controls; those without are named."""
    found = {}
    for name in names:
        try:
            found[name] = _features(adata, name)
        except (FileNotFoundError, KeyError, ValueError) as error:
            print(f"no line of {name}: {error.args[0] if error.args else error}")
    return found


def _scaled(slot: str, scaling: str | None) -> Any:
    return slot if scaling is None else {"slot": slot, "scaling": scaling}


def _explanation(n_patients: int, folds: Sequence[Fold]) -> str:
    """What the columns say, and what cannot be said with so few patients."""
    text = (
        "\nwithin, across: recall@5 in pools of one patient, and of all test patients alike, image to genes and back; same "
        "patient: how often the nearest other spot is of the patient of the query\n"
        "r: ridge on the features, test patients apart; delta: from before the alignment, of controls from the first encoder, with its 95 % interval over "
        f"{n_patients} patients\n"
        "mixing: 1 where the neighbors of a spot are of any patient, 0 where they are all of its own"
    )
    if len(folds) == n_patients:
        text += "\none patient in each test fold: there is nobody to tell it from, and no recall across patients"
    return text
