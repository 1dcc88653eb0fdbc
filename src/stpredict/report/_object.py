"""A page about any object: what is in it, how good it is, scores where something was measured, maps, domains."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.report._page import Part, figure, note, table, write_page
from stpredict.slots._keys import Key
from stpredict.slots._provenance import read_record, records

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_N_GENES = 3
_N_SECTIONS = 3
_RESOLUTION = 0.5  # of small objects, on which 1 finds a dozen
_FEWEST = 30  # observations that domains are looked for in
_SHOWN = (
    "model", "leaky", "pearson", "low", "high", "ceiling", "r_over_ceiling", "pearson_given_depth", "deviance_explained",
    "n_undefined", "interval_over",
)  # fmt: skip
_READING = (
    "Correlations are taken per gene over the observations of one section, then averaged over genes, sections and patients. The "
    "noise ceiling (ceiling) is the correlation that a perfect model would reach, given the counting noise of the measurement. A "
    "model that does not beat the lines below it has learned nothing beyond them. What leaky calls True was seen in training."
)


@dataclass
class Subject:
    """The object, and what is to be shown of it.

    Attributes
    ----------
    adata
        The object; changed.
    key
        Slot of the prediction, `None` where there is none.
    genes
        Genes that the figures show.
    seed
        Random seed for domains and intervals.
    named
        Whether somebody named the genes.
    """

    adata: AnnData
    key: str | None
    genes: list[str]
    seed: int
    named: bool

    @property
    def samples(self) -> list[str]:
        """Names of the sections."""
        return [str(name) for name in dict.fromkeys(self.adata.obs[Key.SAMPLE].astype(str))]


def write_object_report(
    adata: AnnData,
    path: Path,
    *,
    name: str,
    key: str | None = None,
    genes: Sequence[str] | None = None,
    seed: int = 0,
) -> Path:
    """Write a page about an object: quality, scores, maps, domains.

    Whatever an object does not have is said on the page, and is no error.

    Parameters
    ----------
    adata
        Sections, the tiles of a slide, or slides; not changed.
    path
        File to write.
    name
        What the object is called.
    key
        Slot of the prediction; the first there is when `None`.
    genes
        Genes to show; those whose prediction varies most when `None`.
    seed
        Random seed for domains and intervals.

    Returns
    -------
    The path.

    Raises
    ------
    KeyError
        When `key` or one of `genes` is missing.
    """
    import matplotlib.pyplot as plt

    subject = _subject(adata.copy(), key, genes, seed)
    parts = []
    before = plt.get_backend()
    plt.switch_backend("agg")
    try:
        for title, make in _PARTS.items():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                try:
                    blocks = make(subject)
                except (KeyError, ValueError, TypeError, ImportError) as error:
                    text = str(error.args[0]) if error.args else type(error).__name__
                    blocks = [note(f"Not shown: {text}")]
                finally:
                    plt.close("all")
            said = dict.fromkeys(str(each.message) for each in caught if issubclass(each.category, UserWarning))
            parts.append(Part(title, [*blocks, *(note(text, warn=True) for text in said)]))
    finally:
        plt.switch_backend(before)
    return write_page(path, f"Report on {name}", _facts(subject), parts)


def _subject(adata: AnnData, key: str | None, genes: Sequence[str] | None, seed: int) -> Subject:
    from stpredict.report._scale import normalize_like
    from stpredict.slots._prediction import main_predictions, prediction_frame

    with suppress(KeyError, ValueError):  # other numbers than counts are shown as they are
        normalize_like(adata)
    if Key.SAMPLE not in adata.obs:
        adata.obs[Key.SAMPLE] = "all"
    found = main_predictions(adata)
    if key is not None and key not in found:
        raise KeyError(f"expected a prediction in obsm[{key!r}]; found {', '.join(found) or 'none'}; correct --key")
    key = key or next(iter(found), None)
    if key is None:
        known = list(adata.var_names)
        chosen = [str(gene) for gene in genes or known[:_N_GENES]]
    else:
        frame = prediction_frame(adata, key)
        known = list(frame.columns)
        order = np.argsort(-np.nan_to_num(frame.to_numpy().std(axis=0)), kind="stable")
        chosen = [str(gene) for gene in genes or frame.columns[order[:_N_GENES]]]
    missing = [gene for gene in chosen if gene not in known]
    if missing:
        raise KeyError(
            f"expected genes of the {'prediction' if key else 'object'}; found {missing[0]!r}; correct --genes"
        )
    return Subject(adata, key, chosen, seed, genes is not None)


def _facts(subject: Subject) -> dict[str, str]:
    from stpredict import __version__

    adata = subject.adata
    facts = {
        "Observations": f"{adata.n_obs:,}",
        "Sections": _listed(subject.samples),
        "Patients": _listed(sorted(set(adata.obs[Key.PATIENT].astype(str))))
        if Key.PATIENT in adata.obs
        else "not named",
        "Genes": f"{adata.n_vars:,} in X" if adata.n_vars else "none measured",
        "Image features": _listed(sorted(key for key in records(adata) if key.startswith("X_"))) or "none",
    }
    if normalized := read_record(adata, "normalize"):
        facts["Normalization"] = str(normalized.get("method", ""))
    if subject.key is not None:
        record = read_record(adata, subject.key) or {}
        facts["Prediction"] = f"obsm[{subject.key!r}], {len(record.get('genes', record.get('values', []))):,} columns"
        if "model" in record:
            facts["Model"] = f"{record['model']}" + (
                f", mean of {record['n_models']}" if record.get("n_models", 1) != 1 else ""
            )
        if "training_patients" in record:
            facts["Trained on"] = _listed([str(name) for name in np.atleast_1d(record["training_patients"])])
        facts["Seen in training"] = _marks(subject)
    facts["Written by"] = f"stpredict {__version__}"
    return facts


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def _marks(subject: Subject) -> str:
    from stpredict.slots._marks import joint_mark, leak_marks, mark_words

    assert subject.key is not None
    try:
        marks = leak_marks(subject.adata, subject.key)
    except (KeyError, ValueError):
        return "unknown"
    n, mark = int((marks == 1).sum()), joint_mark(marks)
    if n:
        return "yes" if n == len(marks) else f"{n:,} of {len(marks):,} observations"
    if mark is False:
        named = Key.PATIENT in subject.adata.obs
        return "no" if named else "no section was recognized; whose they are is not named"
    return mark_words(mark)


def _quality(subject: Subject) -> list[str]:
    """Numbers of every section, and its image features in two dimensions."""
    import pandas as pd

    import stpredict as stp
    from stpredict.slots._depth import depth_of
    from stpredict.slots._expression import in_tissue

    adata = subject.adata
    section = adata.obs[Key.SAMPLE].astype(str).to_numpy()
    on_tissue, depth = in_tissue(adata), depth_of(adata)
    counts = adata.layers.get(Key.COUNTS)
    n_genes = None if counts is None else np.asarray((counts > 0).sum(axis=1)).ravel()
    slots = [key for key in records(adata) if key.startswith("X_")]
    rows = []
    for name in subject.samples:
        mine = section == name
        row: dict[str, Any] = {
            "section": name,
            "observations": int(mine.sum()),
            "on tissue": int((mine & on_tissue).sum()),
        }
        if depth is not None:
            row["median counts"] = f"{np.nanmedian(depth[mine & on_tissue]):,.0f}" if (mine & on_tissue).any() else ""
        if n_genes is not None:
            row["median genes"] = f"{np.median(n_genes[mine]):,.0f}"
        if "tissue_fraction" in adata.obs:
            row["tissue in a tile"] = f"{adata.obs['tissue_fraction'].to_numpy()[mine].mean():.0%}"
        for slot in slots:
            record = read_record(adata, slot) or {}
            if name in (sizes := record.get("microns_per_pixel", {})):
                row["µm per pixel"] = f"{sizes[name]:.3g}"
            if (padded := record.get("padded", {}).get(name)) is not None:
                row["tiles beyond the picture"] = int(padded)
        rows.append(row)
    blocks = [table(pd.DataFrame(rows))]
    if slots and (slots[0] in adata.obsm or adata.n_vars):
        caption = f"Image features ({slots[0].removeprefix('X_')}), by section: what separates is staining before it is biology"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            blocks.append(_try(lambda: figure(caption, stp.pl.features(adata, slots[0]))))
    return blocks


def _try(make: Callable[[], str]) -> str:
    """A block, or why there is none."""
    try:
        return make()
    except (KeyError, ValueError) as error:
        return note(f"Not shown: {error.args[0] if error.args else error}")


def _figure_of(caption: str, make: Callable[[], Any]) -> str:
    return figure(caption, make())


def _scores(subject: Subject) -> list[str]:
    """Scores against what was measured, beside the baselines that lie beside the prediction."""
    import stpredict as stp
    from stpredict.slots._features import is_tile_table

    if subject.key is None:
        return [note("There is no prediction in this object.")]
    if not subject.adata.n_vars or is_tile_table(subject.adata):
        return [note("Nothing was measured here, so that there is nothing to score against.")]
    scores: pd.DataFrame = stp.tl.evaluate(subject.adata, subject.key, seed=subject.seed)
    summary = stp.tl.summarize(scores, seed=subject.seed)
    shown = summary[[name for name in _SHOWN if name in summary]]
    return [
        table(shown), note(_READING),
        _try(lambda: figure("Correlation per gene, by model", stp.pl.scores(scores))),
        _try(lambda: figure("Correlation against the noise ceiling", stp.pl.ceiling(scores))),
    ]  # fmt: skip


def _maps(subject: Subject) -> list[str]:
    """Maps of some genes in the first sections."""
    import stpredict as stp
    from stpredict.slots._features import is_tile_table

    adata, key, genes = subject.adata, subject.key, subject.genes
    if key is None:
        return [note("There is no prediction in this object.")]
    how = (
        "named by whoever asked for this page"
        if subject.named
        else "whose prediction varies most; nothing measured chose them"
    )
    blocks = [note(f"{', '.join(genes)}: {how}.")]
    measured = not is_tile_table(adata) and set(genes) <= set(adata.var_names)
    draw: Callable[..., Any] = stp.pl.genes if measured else stp.pl.maps
    for sample in subject.samples[:_N_SECTIONS]:
        make = partial(draw, adata, genes, key=key, sample=sample)
        blocks.append(_try(partial(_figure_of, f"Section {sample}", make)))
    if len(subject.samples) > _N_SECTIONS:
        blocks.append(note(f"The first {_N_SECTIONS} of {len(subject.samples)} sections."))
    return blocks


def _domains(subject: Subject) -> list[str]:
    """The domains that are there, or those on the prediction."""
    import stpredict as stp
    from stpredict.slots._prediction import prediction_frame

    adata, text = subject.adata, "The domains of the object."
    if Key.DOMAIN not in adata.obs:
        if subject.key is None:
            return [note("There are neither domains nor a prediction to find them on.")]
        if adata.n_obs < _FEWEST:
            return [note(f"Too few observations to look for domains: {adata.n_obs}, and {_FEWEST} are needed.")]
        genes = list(prediction_frame(adata, subject.key).dropna(axis=1).columns)
        stp.tl.domains(adata, subject.key, genes=genes, resolution=_RESOLUTION, seed=subject.seed)
        text = f"Found for this page on the prediction, by Leiden at resolution {_RESOLUTION}; positions were not used."
    blocks = [note(text)]
    for sample in subject.samples[:_N_SECTIONS]:
        drawn = stp.pl.domains(adata, sample=sample, label_key="label" if "label" in adata.obs else None)
        blocks.append(figure(f"Section {sample}", drawn))
    return blocks


_PARTS: dict[str, Callable[[Subject], list[str]]] = {
    "Quality": _quality, "Scores": _scores, "Maps": _maps, "Domains": _domains,
}  # fmt: skip
