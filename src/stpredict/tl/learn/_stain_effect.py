"""What normalizing stains is worth: the same model on the same folds, with and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from stpredict.core._stain import METHODS
from stpredict.core._validate import check_choice
from stpredict.slots._container import begin
from stpredict.slots._keys import Key
from stpredict.slots._provenance import drop_records, write_record
from stpredict.slots._stain import STAIN, stain_entry
from stpredict.tl.judge._compare_models import compare_models
from stpredict.tl.learn._cross_validate import cross_validate
from stpredict.tl.learn._splitters import Splitter, check_folds, make_folds
from stpredict.tl.learn.targets._base import Keys

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.cohorts import Fold
    from stpredict.core._stain import StainMethod
    from stpredict.slots._container import Container

AS_THEY_ARE = "as they are"
_METRICS = ("pearson", "deviance_explained")


@dataclass(frozen=True)
class StainEffect:
    """What :func:`stpredict.tl.stain_effect` returns.

    Attributes
    ----------
    comparison
        Differences to pictures as they are, paired over patients: one row per score and method, in the columns of
        :func:`stpredict.tl.compare_models`.
    scores
        One row per method, section and gene, as of :func:`stpredict.tl.cross_validate`.
    """

    comparison: pd.DataFrame
    scores: pd.DataFrame

    def __repr__(self) -> str:
        return repr(self.comparison)

    def _repr_html_(self) -> str:
        return str(self.comparison._repr_html_())  # type: ignore[operator]


def stain_effect(
    data: Container,
    methods: str | Sequence[str] = ("macenko",),
    model: str = "ridge",
    splitter: Splitter = "patient",
    *,
    white: str = "published",
    encoder: Any = "color-texture",
    target: Any = None,
    image: Any = None,
    n_tiles: int = 64,
    seed: int = 0,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
    **features: Any,
) -> StainEffect:
    """Score a model on held-out patients with and without the stains of a reference.

    In each fold the reference is the mean over the training patients, the pictures of all sections are given its stains, and
    features are computed anew: so many times as there are folds and methods, beside once as they are. What normalizing is worth depends
    on how differently the sections are stained, and on the encoder; it may be less than nothing.

    Parameters
    ----------
    data
        Sections with images and normalized expression. Nothing is written to it.
    methods
        `"macenko"`, `"vahadane"`, `"reinhard"`, or several of them.
    model
        Registered name of a model that reads image features.
    splitter
        As in :func:`stpredict.tl.cross_validate`, but folds of whole sections only.
    white
        As in :func:`stpredict.pp.normalize_stain`.
    encoder
        As in :func:`stpredict.pp.image_features`.
    target
        As in :func:`stpredict.tl.fit`: expression.
    image
        Images that the object does not record.
    n_tiles
        Tiles that the stains of a section are found in.
    seed
        Random seed of these, of folds, weights and intervals.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    table_key
        Table of a SpatialData.
    **features
        Further options of :func:`stpredict.pp.image_features`, such as `tile_um`, `context`, `weights` or `cache`.

    Returns
    -------
    A :class:`stpredict.tl.StainEffect`, whose `comparison` is printed. `"as they are"` is the reference.

    Raises
    ------
    KeyError
        When positions, sections, patients or an image are missing.
    ValueError
        When a method is unknown, a fold divides a section, a section is gray or holds hardly any tissue, or a patient is on both sides
        of a fold.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=3, n_sections=1, n_spots=40, n_genes=6)
    >>> stp.pp.normalize(adata)
    >>> effect = stp.tl.stain_effect(adata, "macenko", context=(1,))
    >>> effect.comparison[["metric", "model", "reference", "n_units"]].values.tolist()
    [['pearson', 'macenko', 'as they are', 3], ['deviance_explained', 'macenko', 'as they are', 3]]
    """
    import pandas as pd

    from stpredict.pp import image_features
    from stpredict.pp._stain_pixels import people_behind, reference_of, stains_of

    listed = list(dict.fromkeys([methods] if isinstance(methods, str) else methods))
    for method in listed:
        check_choice(method, METHODS, "methods")
    wanted = cast("list[StainMethod]", listed)
    if splitter == "blocks":
        raise ValueError("expected folds of whole sections; found splitter='blocks': a section has one stain")
    container, table = begin(data, True, table_key)
    keys = Keys(sample_key, patient_key)
    folds = make_folds(table, splitter, seed, keys, {})
    check_folds(table, folds, patient_key, allow_leakage=False)
    sample = table.obs[sample_key].astype(str).to_numpy()
    who = people_behind(table, sample_key, patient_key)
    given = {"image": image, "sample_key": sample_key, "table_key": table_key}
    found = {
        method: stains_of(
            container, method, white=white, **given, microns_per_pixel=features.get("microns_per_pixel"), n_tiles=n_tiles, seed=seed,
            tile_key="tiles",
        )
        for method in wanted
    }  # fmt: skip
    drop_records(table, [STAIN])
    plain = "X_as_they_are"
    image_features(container, encoder, key_added=plain, **given, **features)
    parts = []
    for fold in folds:
        slots = {AS_THEY_ARE: plain}
        names = _training_sections(fold, sample)
        for method in wanted:
            write_record(
                table, STAIN, stain_entry(reference_of(found[method], names, who), found[method], n_tiles, seed)
            )
            slots[method] = f"X_{method}"
            image_features(container, encoder, key_added=slots[method], **given, **features)
        models: Any = {label: {"model": model, "features": slot} for label, slot in slots.items()}
        parts.append(
            cross_validate(
                container, models, [fold], target=target, baselines=False, ceiling=False, seed=seed, key_added="stain_effect",
                sample_key=sample_key, patient_key=patient_key, table_key=table_key, progress=False,
            )
        )  # fmt: skip
    scores = pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
    rows = [
        pd.DataFrame(compare_models(scores, metric=metric, reference=AS_THEY_ARE, seed=seed)).assign(metric=metric)
        for metric in _METRICS
        if metric in scores
    ]
    return StainEffect(_comparison(pd.concat(rows, ignore_index=True)), scores)


def _comparison(frame: pd.DataFrame) -> pd.DataFrame:
    from stpredict.core._table import compact

    shown = ["metric", "model", "reference", "score", "reference_score", "difference", "low", "high", "p_adjusted", "n_units", "over"]  # fmt: skip
    return compact(frame, shown)


def _training_sections(fold: Fold, sample: np.ndarray) -> list[str]:
    """Sections that a fold trains on; an error where it divides one."""
    train = sorted(set(sample[fold.train]))
    if divided := sorted(set(train) & set(sample[fold.test])):
        raise ValueError(
            f"expected folds of whole sections, which have one stain each; found {', '.join(divided)} on both sides of fold "
            f"{fold.name!r}"
        )
    return train
