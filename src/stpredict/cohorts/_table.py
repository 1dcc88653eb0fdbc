"""All sections of a cohort as one table whose arrays stay on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts._section_files import kind_of, signature, table_in
from stpredict.cohorts._section_nuclei import SectionNuclei
from stpredict.cohorts._sources import SectionFile
from stpredict.core._atomic import new_directory, room_for
from stpredict.core._file_rows import row_blocks, write_rows
from stpredict.core._settings import settings
from stpredict.core._turns import remove, turn
from stpredict.core._validate import check_unique, few
from stpredict.slots._concat import concat
from stpredict.slots._keys import Key
from stpredict.slots._nuclei import nuclei_keys, sections_with_nuclei
from stpredict.slots._prediction import clear_predictions, prediction_names

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_MARKER = "arrays.json"
_VERSION = 1  # of the files
_CALL = "free some, or set stp.settings.cache_dir to another folder"


def signatures(sections: Sequence[SectionFile], table_key: str) -> list[list[str]]:
    """What the files of sections are known by: other ones after any change."""
    return [[each.name, str(each.path), signature(each.path, table_key)] for each in sections]


def heads(cohort: Any) -> Iterator[tuple[str, AnnData]]:
    """Sections by name, each with its first observation, and without predictions: what is recorded of it, and its slots."""
    for name, path in cohort.paths.items():
        with table_in(path, cohort.table_key) as table:
            yield name, _read(table)[1]


def mapped_table(
    sections: Sequence[SectionFile], *, sample_key: str, patient_key: str, table_key: str, known: list[list[str]]
) -> AnnData:
    """The table of all sections, its arrays mapped from files that are made where they are missing or no longer true."""
    from anndata import AnnData

    heads: dict[str, AnnData] = {}
    every: dict[str, pd.DataFrame] = {}
    nuclei: dict[str, dict[str, Path]] = {}
    for section in sections:
        with table_in(section.path, table_key) as table:
            obs, heads[section.name] = _read(table)
        _leave_nuclei(section, heads[section.name], nuclei)
        for frame in (obs, heads[section.name].obs):
            for key, value in ((sample_key, section.name), (patient_key, section.patient)):
                if key not in frame:
                    frame[key] = value
        every[section.name] = obs
    genes = _same_genes(heads)
    joined = concat({name: head[:, genes].copy() for name, head in heads.items()})
    obs = _joined(every, list(joined.obs.columns))
    slots = [*(["X"] if joined.X is not None and len(genes) else [])]
    slots += [f"layers/{key}" for key in joined.layers] + [f"obsm/{key}" for key in joined.obsm]
    frames = {key for key in joined.obsm if hasattr(joined.obsm[key], "iloc")}
    slots = [slot for slot in slots if slot.removeprefix("obsm/") not in frames or not slot.startswith("obsm/")]
    folder = _made(sections, heads, genes, slots, known, table_key)
    arrays = {slot: _opened(folder, entry) for slot, entry in json.loads((folder / _MARKER).read_text()).items()}
    table = AnnData(
        arrays.pop("X", None),
        obs=obs,
        var=joined.var,
        varm=dict(joined.varm),
        layers={slot.partition("/")[2]: values for slot, values in arrays.items() if slot.startswith("layers/")},
        obsm={slot.partition("/")[2]: values for slot, values in arrays.items() if slot.startswith("obsm/")},
        uns=joined.uns,
    )
    table.uns |= {key: SectionNuclei(files, key, table_key) for key, files in nuclei.items()}
    return table


def _leave_nuclei(section: SectionFile, head: AnnData, found: dict[str, dict[str, Path]]) -> None:
    """Take the nuclei of a section out of its `uns`, and note in which file they are."""
    for key in nuclei_keys(head):
        as_shapes = kind_of(section.path) == "spatialdata"
        if as_shapes or sections_with_nuclei(head, key, [section.name]):
            head.uns.pop(key, None)
            found.setdefault(key, {})[section.name] = section.path


def _read(table: Any) -> tuple[pd.DataFrame, AnnData]:
    """All of `obs`, and a section with its first observation, without predictions and pictures."""
    from anndata import AnnData
    from anndata.io import read_elem

    obs: Any = read_elem(table["obs"])
    var: Any = read_elem(table["var"])
    uns: Any = read_elem(table["uns"]) if "uns" in table else {}
    for entry in uns.get(Key.SPATIAL, {}).values():
        if isinstance(entry, dict):
            entry.pop("images", None)
    head = AnnData(
        _first(table["X"]) if _is_array(table, "X") else None,
        obs=obs.iloc[:1].copy(),
        var=var,
        layers={key: _first(table["layers"][key]) for key in table.get("layers", {})},
        obsm={key: _first(table["obsm"][key]) for key in table.get("obsm", {})},
        varm={key: read_elem(table["varm"][key]) for key in table.get("varm", {})},
        uns=uns,
    )
    for key in list(head.obsm):
        if key in head.obsm and not hasattr(head.obsm[key], "iloc") and prediction_names(head, key) is not None:
            clear_predictions(head, key)
    return obs, head


def _is_array(table: Any, slot: str) -> bool:
    """Whether a slot holds a matrix: an `X` of nothing is stored as a null."""
    return slot in table and table[slot].attrs.get("encoding-type") != "null"


def _rows(values: Any) -> Any:
    """A stored array, sparse matrix or frame, of which rows can be read by slices."""
    from anndata.io import read_elem, sparse_dataset

    kind = str(values.attrs.get("encoding-type", "array"))
    if kind == "csr_matrix":
        return sparse_dataset(values)
    if kind in {"csc_matrix", "dataframe"}:
        found: Any = read_elem(values)
        return found.tocsr() if kind == "csc_matrix" else found
    return values


def _first(values: Any) -> Any:
    found = _rows(values)
    return found.iloc[:1] if hasattr(found, "iloc") else found[:1]


def _same_genes(heads: Mapping[str, AnnData]) -> list[str]:
    """Genes of all sections, in the order of the first; an error where they are not the same."""
    (first, head), *others = heads.items()
    check_unique(head.var_names, f"genes in section {first!r}")
    for name, other in others:
        check_unique(other.var_names, f"genes in section {name!r}")
        missing, further = head.var_names.difference(other.var_names), other.var_names.difference(head.var_names)
        if len(missing) or len(further):
            raise ValueError(
                f"expected the same genes in every section; found {len(missing)} of {first!r} missing in {name!r}"
                f"{f' ({few(missing, 3)})' if len(missing) else ''} and {len(further)} others"
                f"{f' ({few(further, 3)})' if len(further) else ''}; write the sections with the genes in common, for example "
                "cohort.map(function, write=True) with a function that returns nothing and keeps them, or leave sections out"
            )
    return list(head.var_names)


def _joined(every: Mapping[str, pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """`obs` of all sections; names that occur twice get that of their section."""
    import anndata

    joined = anndata.concat([anndata.AnnData(obs=obs[columns]) for obs in every.values()]).obs
    if not joined.index.is_unique:
        names = [f"{name}:{row}" for name, obs in every.items() for row in obs.index]
        joined.index = joined.index.__class__(names)
    return joined


def _made(
    sections: Sequence[SectionFile],
    heads: Mapping[str, AnnData],
    genes: list[str],
    slots: list[str],
    known: list[list[str]],
    table_key: str,
) -> Path:
    """Folder with the arrays of all sections, which is made where there is none."""
    place = hashlib.sha256(json.dumps([[name, path] for name, path, _ in known]).encode()).hexdigest()[:24]
    digest = hashlib.sha256(json.dumps([_VERSION, known, genes, sorted(slots)]).encode()).hexdigest()[:24]
    folder = settings.cache_dir / "cohorts" / "tables" / f"{place}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with turn(folder):
        if (folder / _MARKER).is_file():
            return folder
        for earlier in folder.parent.glob(f"{place}-*"):
            remove(earlier)
        with room_for(f"the arrays of the cohort in {folder.parent}", _CALL), new_directory(folder, _MARKER) as fresh:
            described = {}
            for number, slot in enumerate(slots):
                parts = [_slot(head, slot) for head in heads.values()]
                described[slot] = _write(fresh / f"{number}", sections, slot, parts, heads, genes, table_key)
            (fresh / _MARKER).write_text(json.dumps(described))
    return folder


def _slot(adata: AnnData, slot: str) -> Any:
    axis, _, key = slot.partition("/")
    return adata.X if not key else getattr(adata, axis)[key]


def _write(
    stem: Path,
    sections: Sequence[SectionFile],
    slot: str,
    firsts: list[Any],
    heads: Mapping[str, AnnData],
    genes: list[str],
    table_key: str,
) -> dict[str, Any]:
    """Write one slot of all sections; sparse where it is in every section."""
    from scipy import sparse

    n = sum(section.n_obs for section in sections)
    dtype = np.result_type(*(each.dtype for each in firsts))
    shape = (n, *firsts[0].shape[1:])

    def blocks() -> Iterator[Any]:
        for section, head in zip(sections, heads.values(), strict=True):
            order = None if slot.startswith("obsm/") else head.var_names.get_indexer(genes)
            if order is not None and (order == np.arange(len(order))).all():
                order = None
            with table_in(section.path, table_key) as table:
                values = _rows(table[slot])
                width = int(np.prod(shape[1:])) * dtype.itemsize
                for rows in row_blocks(section.n_obs, width):
                    block = values[rows]
                    yield block if order is None else block[:, order]

    if not all(sparse.issparse(each) for each in firsts):
        dense = (block.toarray() if sparse.issparse(block) else block for block in blocks())
        write_rows(stem.with_suffix(".npy"), dense, dtype, shape)
        return {"file": stem.with_suffix(".npy").name}
    sizes = np.concatenate([[0], *(np.diff(block.tocsr().indptr) for block in blocks())]).astype(np.int64)
    starts = np.cumsum(sizes)
    write_rows(stem.with_suffix(".data.npy"), (b.tocsr().data for b in blocks()), dtype, (starts[-1],))
    write_rows(stem.with_suffix(".columns.npy"), (b.tocsr().indices for b in blocks()), np.int32, (starts[-1],))
    np.save(stem.with_suffix(".starts.npy"), starts)
    return {"file": stem.name, "shape": list(shape)}


def _opened(folder: Path, entry: Mapping[str, Any]) -> Any:
    """A memory map, or a sparse matrix on memory maps."""
    from scipy.sparse import csr_matrix

    if "shape" not in entry:
        path = folder / entry["file"]
        return np.load(path, mmap_mode="r")
    data, columns, starts = (
        np.load(folder / f"{entry['file']}.{what}.npy", mmap_mode=mode)  # type: ignore[arg-type]
        for what, mode in (("data", "r"), ("columns", "r"), ("starts", None))
    )
    if len(data) <= np.iinfo(np.int32).max:  # both of one type, or scipy makes copies
        starts = starts.astype(np.int32)
    return csr_matrix((data, columns, starts), shape=tuple(entry["shape"]), copy=False)
