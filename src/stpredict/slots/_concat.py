"""Join objects, with what was recorded of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._validate import check_choice, few
from stpredict.slots._container import get_table
from stpredict.slots._content import N_ROWS, SEAL, as_recorded
from stpredict.slots._expression import marked_measured
from stpredict.slots._features import feature_matrix
from stpredict.slots._keys import Key
from stpredict.slots._marks import leak_marks, written_marks
from stpredict.slots._merge import merged, same, shared
from stpredict.slots._prediction import NAMES, SOURCE, prediction_frame, prediction_names, write_prediction
from stpredict.slots._provenance import read_record, write_record
from stpredict.slots._samples import joined_samples
from stpredict.slots._sections import kept_sections

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Join = Literal["inner", "outer"]
_FILTERS = "filter_genes"
_SILENT = frozenset({"read", "model", "shell"})  # how an object was read, the model fitted to it, the command behind it


def concat(
    adatas: Mapping[str, AnnData] | Sequence[AnnData],
    *,
    join: Join = "inner",
    label: str | None = None,
    index_unique: str | None = None,
    fill_value: Any = None,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
) -> AnnData:
    """Join objects along the observations, as `anndata.concat` does, and keep what was recorded of them.

    What was recorded alike is kept, and what is recorded section by section (µm per pixel, cells of grids, pictures) is
    joined. What was made differently is an error that names both sides: a normalization, image features, a selection of
    genes. Predictions keep their genes: with `join="inner"` those that all objects have, with `join="outer"` all of
    them, NaN where an object has none. Each observation keeps its mark of a leak.

    Parameters
    ----------
    adatas
        Objects, by name or not.
    join
        Genes and slots that all objects have, `"inner"`, or all there are, `"outer"`.
    label
        Column of `obs` for the name of the object that an observation is from.
    index_unique
        Text between the name of an observation and that of its object; names stay as they are when `None`.
    fill_value
        Value of genes that an object lacks, with `join="outer"`; NaN for dense matrices and 0 for sparse ones when
        `None`.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.

    Returns
    -------
    A new AnnData. Columns of `var` and tables of `varm` are kept where all objects have the same; other entries of `uns`
    where they do not contradict each other; `raw` and tables of pairs are left out. The objects stay as they are.

    Raises
    ------
    TypeError
        When something is no AnnData.
    ValueError
        When there is no object, records were made differently or are missing in some objects, predictions have no gene
        in common, or sections of one name have different pictures.

    Warns
    -----
    UserWarning
        When records of analyses differ, such as domains that were found in each object by itself, and are left out.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=30, n_genes=5)
    >>> stp.pp.normalize(adata)
    >>> parts = {name: adata[adata.obs["patient"] == name].copy() for name in ("P1", "P2")}
    >>> joined = stp.concat(parts)
    >>> joined.uns["stpredict"]["normalize"]["method"]
    'pearson_residuals'
    """
    import anndata

    check_choice(join, ("inner", "outer"), "join")
    named = dict(adatas) if isinstance(adatas, Mapping) else {str(i): adata for i, adata in enumerate(adatas)}
    if not named:
        raise ValueError("expected at least one object to join; found none")
    for name, part in named.items():
        if not isinstance(part, anndata.AnnData):
            raise TypeError(f"expected AnnData; found {type(part).__name__} as {name!r}; join its tables")
    parts = {str(name): get_table(adata) for name, adata in named.items()}

    predictions = _predictions(parts, join, patient_key)
    records, lost = _records(parts, set(predictions), join)
    pictures = _pictures(parts)
    joined = anndata.concat(
        {name: _without(part, set(predictions)) for name, part in parts.items()},
        join=join, merge="same", uns_merge="unique", label=label, index_unique=index_unique, fill_value=fill_value,
    )  # fmt: skip
    _close_gaps(joined)
    joined.uns = {key: value for key, value in joined.uns.items() if key not in (Key.UNS, Key.SPATIAL)}
    if pictures:
        samples = joined.obs[sample_key].astype(str).unique() if sample_key in joined.obs else []
        joined.uns[Key.SPATIAL] = kept_sections({Key.SPATIAL: pictures}, samples) or pictures
    for key, record in records.items():
        slot = next(
            (axis for axis in ("obsm", "var", "varm") if any(key in getattr(part, axis) for part in parts.values())),
            None,
        )
        if slot is None or key in getattr(joined, slot):
            write_record(joined, key, _sealed(key, parts, record))
    # What lies beside another prediction comes after it.
    for prediction in sorted(predictions.values(), key=lambda each: each.owner is not None):
        prediction.write(joined)
    if lost:
        warnings.warn(
            f"records that differ between the objects are left out: {few(lost)}; run these analyses on the joined object",
            stacklevel=2,
        )
    return joined


class _Prediction:
    """A prediction of several objects: its values with their genes, what is recorded of all alike, and the marks."""

    def __init__(self, key: str, parts: Mapping[str, AnnData], join: Join, patient_key: str) -> None:
        frames = {name: prediction_frame(part, key) for name, part in parts.items() if key in part.obsm}
        every = [read_record(parts[name], key) or {} for name in frames]
        if len(sources := {str(record.get(SOURCE, "the expression")) for record in every}) > 1:
            raise ValueError(
                f"expected predictions of one target in obsm[{key!r}]; found those of {few(sorted(sources))}; rename the slot in "
                "one of the objects"
            )
        genes = _joint_genes(key, {name: frame.columns for name, frame in frames.items()}, join)
        self.key = key
        self.genes = genes
        self.values = np.full((sum(part.n_obs for part in parts.values()), len(genes)), np.nan, dtype=np.float32)
        stop = 0
        for name, part in parts.items():
            stop += part.n_obs
            if name in frames:
                at = frames[name].columns.get_indexer(genes)
                self.values[stop - part.n_obs : stop, at >= 0] = frames[name].to_numpy()[:, at[at >= 0]]
        self.record = shared(every)
        self.arrays = joined_samples(parts, key, list(genes)) if len(frames) == len(parts) else {}
        units = {
            name: u for each in every for name, u in zip(each.get("values", []), each.get("units", []), strict=False)
        }
        if units:
            self.record["units"] = [units.get(name, "") for name in genes]
        column = self.record.pop("panel_key", Key.panel(key))
        self.owner = None if column == Key.panel(key) else str(column).removesuffix(Key.panel(""))
        self.names: Any = next((name for name in NAMES if any(name in record for record in every)), "genes")
        for name in NAMES:
            self.record.pop(name, None)
        if all("samples" in record for record in every) and "sample_key" in self.record:
            self.record["samples"] = _union(every, "samples")
        # The patients that one model saw are nothing to the others: each row carries its mark.
        self.marks = None
        if any("patients_seen" in record for record in every) or any(Key.leaky(key) in p.obs for p in parts.values()):
            self.marks = np.concatenate(
                [
                    leak_marks(p, key, patient_key) if name in frames else np.full(p.n_obs, -1)
                    for name, p in parts.items()
                ]
            )

    def write(self, joined: AnnData) -> None:
        """Write it into the joined object."""
        import pandas as pd

        values = pd.DataFrame(self.values, index=joined.obs_names, columns=self.genes, copy=False)
        write_prediction(joined, self.key, values, self.record, beside=self.owner, names=self.names)
        for slot, array in self.arrays.items():
            joined.obsm[slot] = array
        if self.marks is not None:
            joined.obs[Key.leaky(self.key)] = written_marks(self.marks)


def _joint_genes(key: str, genes: Mapping[str, pd.Index], join: Join) -> pd.Index:
    """Genes of a prediction that all objects have, or all there are, in the order of the first object."""
    first, *others = genes.values()
    for other in others:
        first = first[first.isin(other)] if join == "inner" else first.append(other[~other.isin(first)])
    if not len(first):
        raise ValueError(
            f"expected genes in obsm[{key!r}] that were predicted in all objects; found none in common in {few(genes)}; "
            "rename the slot in one of them, or pass join='outer'"
        )
    return first


def _predictions(parts: Mapping[str, AnnData], join: Join, patient_key: str) -> dict[str, _Prediction]:
    """Predictions by slot: of all objects with `join="inner"`, of any with `"outer"`."""
    found: dict[str, _Prediction] = {}
    for key in dict.fromkeys(key for part in parts.values() for key in part.obsm):
        having = [part for part in parts.values() if key in part.obsm]
        if join == "inner" and len(having) < len(parts):
            continue
        # A DataFrame of somebody else is joined as anndata does it.
        if any(not hasattr(p.obsm[key], "iloc") and prediction_names(p, key) is not None for p in having):
            found[key] = _Prediction(key, parts, join, patient_key)
    return found


def _without(part: AnnData, predictions: set[str]) -> AnnData:
    """An object that shares its arrays with another, but for the slots that are joined here."""
    from anndata import AnnData

    matrix = part.X if part.X is not None or part.n_vars else np.empty(part.shape, dtype=np.float32)
    beside = {slot for key in predictions for slot in (key, Key.samples(key), Key.quantiles(key))}
    dropped = {name for key in predictions for name in (Key.panel(key), Key.leaky(key))}
    return AnnData(
        matrix,
        obs=part.obs[[name for name in part.obs if name not in dropped]],
        var=part.var,
        uns=part.uns,
        obsm={key: value for key, value in part.obsm.items() if key not in beside},
        varm=dict(part.varm),
        layers=dict(part.layers),
    )


def _records(
    parts: Mapping[str, AnnData], predictions: set[str], join: Join
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Records of the joined object, and the keys of analyses that were run differently."""
    found: dict[str, dict[str, Any]] = {}
    lost: list[str] = []
    for key in dict.fromkeys(key for part in parts.values() for key in part.uns.get(Key.UNS, {})):
        having = [key in part.obsm for part in parts.values()]
        if key in predictions or (join == "inner" and any(having) and not all(having)):
            continue
        records = {name: read_record(part, key) for name, part in parts.items()}
        known = {name: record for name, record in records.items() if record is not None}
        concerned = [name for name, part in parts.items() if name in known or _concerns(key, part)]
        if key == _FILTERS:
            found[key] = _filters(known)
        elif key == Key.UNIT:
            found[key] = merged(
                key,
                {name: record or {"is": "observation"} for name, record in records.items()},
                "join slides with slides",
            )
        elif _is_made(key, parts, known):
            found[key] = merged(key, {name: records[name] or {} for name in concerned}, _call(key))
        elif len(shared(list(known.values()))) == max(map(len, known.values())):
            found[key] = next(iter(known.values()))
        elif key not in _SILENT:
            lost.append(key)
    return found, lost


def _is_made(key: str, parts: Mapping[str, AnnData], records: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a record says how something was made that models are fitted on or judged by."""
    in_slots = any(key in part.obsm or key in part.var for part in parts.values())
    return key in ("normalize", Key.GRID) or in_slots or any("encoder" in record for record in records.values())


def _concerns(key: str, part: AnnData) -> bool:
    """Whether an object without a record has what the record is about."""
    if key == "normalize":
        return part.n_vars > 0 and part.X is not None and bool(marked_measured(part).any())
    return key in part.obsm or key in part.var or (key == Key.GRID and Key.GRID_ROW in part.obs)


def _filters(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Record of filters of genes: whoever had a part in one of them had a part in what is left."""
    joined = shared(list(records.values()))
    for field in ("samples", "patients", "genes"):
        if any(field in record for record in records.values()):
            joined[field] = _union(records.values(), field)
    # That a filter looked at the data is never forgotten.
    looked = next((record for record in records.values() if "patients" in record), {})
    return {field: value for field, value in looked.items() if field not in {"digest", "n_genes", "dropped"}} | joined


def _union(records: Iterable[Mapping[str, Any]], field: str) -> list[str]:
    return sorted({str(name) for record in records for name in np.atleast_1d(record.get(field, []))})


def _sealed(key: str, parts: Mapping[str, AnnData], record: dict[str, Any]) -> dict[str, Any]:
    """The record of image features; with the seal of those that are no longer as recorded, where there are some."""
    for part in parts.values():
        own = read_record(part, key) or {}
        features = feature_matrix(part, key)
        if features is not None and not as_recorded(features, own):
            return record | {SEAL: own[SEAL], N_ROWS: own[N_ROWS]}
    return record


def _pictures(parts: Mapping[str, AnnData]) -> dict[str, Any]:
    """`uns["spatial"]` of all objects."""
    joined: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for name, part in parts.items():
        for section, entry in part.uns.get(Key.SPATIAL, {}).items():
            if section in joined and not same(joined[section], entry):
                raise ValueError(
                    f"expected sections of different names, or the same picture and scale factors; found others of {section!r} in "
                    f"{owner[section]!r} and {name!r}; rename one of the sections, in obs and in uns['spatial']"
                )
            joined[section], owner[section] = entry, name
    return joined


def _close_gaps(joined: AnnData) -> None:
    """Turn booleans with gaps into a type that stores know."""
    for name, column in joined.obs.items():
        if column.dtype.kind == "O" and column.isna().any() and column.dropna().map(_is_bool).all():
            joined.obs[name] = column.astype("boolean")


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _call(key: str) -> str:
    if key == "normalize":
        return "call stp.pp.normalize alike on all of them, or on the joined object (layer='counts')"
    if key == Key.GRID:
        return "call stp.pp.grid on all of them, or on the joined object"
    if key.startswith("X_"):
        return "call stp.pp.image_features with the same settings on all of them, or on the joined object"
    return "select genes once, on the training sections of the joined object (stp.pp.select_genes), or drop the column"
