"""Counts of a 10x HDF5 file, read so that damage cannot end the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import few

if TYPE_CHECKING:
    from anndata import AnnData

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_OFFSETS = (0, 512, 1024, 2048)  # a block of the user's may come before it
_RATIO = 2000.0  # more than any compression reaches: a dataset that claims more than this is damaged
_SECONDS, _SLOWEST = 60.0, 2e6  # for a small file, and bytes per second for a large one
# The HDF5 library ends the process on some damaged files, so another process reads everything first.
_NO_H5PY = 77  # how it ends where it lacks a path that this process has added to its own
_TRIAL = f"""
import sys
try:
    import h5py
except ImportError:
    sys.exit({_NO_H5PY})
limit = float(sys.argv[2])
def read(name, item):
    dict(item.attrs)
    if isinstance(item, h5py.Dataset):
        if item.size is not None and item.size * item.dtype.itemsize > limit:
            sys.exit(f"{{name}} claims {{item.size}} values of {{item.dtype.itemsize}} bytes")
        if item.ndim < 3:
            item[()]
        else:  # pictures, which need not fit into memory together
            for row in range(len(item)):
                item[row]
try:
    with h5py.File(sys.argv[1], "r") as file:
        dict(file.attrs)
        file.visititems(read)
except Exception as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""
_EXPRESSION = "Gene Expression"
_OPTIONAL = {"features/feature_type": "feature_types", "features/genome": "genome"}  # and their columns in `var`


def read_counts_h5(path: Path, genome: str | None = None) -> AnnData:
    """Counts of the genes, observations × genes, of a 10x matrix of any version; protein and other features are left out.

    Raises `ValueError` when the file is damaged or holds no such matrix, or the genome has to be chosen.
    """
    import h5py  # type: ignore[import-untyped]

    check_h5(path)
    try:
        with h5py.File(path, "r") as file:
            groups = _groups(file)
    except (OSError, KeyError, RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"expected a 10x matrix in {path}; found a damaged file ({error}); fetch it again") from error
    if not groups:
        raise ValueError(
            f"expected a 10x matrix in {path}; found an HDF5 file without the group 'matrix'; pass Space Ranger's "
            "filtered_feature_bc_matrix.h5 with `count_file=`"
        )
    if "matrix" not in groups:
        if genome is None and len(groups) > 1:
            raise ValueError(f"expected one genome in {path}; found {few(groups)}; pass `genome=`")
        chosen = next(iter(groups)) if genome is None else genome
        if chosen not in groups:
            raise ValueError(f"expected the genome {genome!r} in {path}; found {few(groups)}")
        return _assemble(groups[chosen], path)
    counts = _assemble(groups["matrix"], path)
    keep = np.ones(counts.n_vars, dtype=bool)
    if genome is not None:
        genomes = counts.var["genome"].astype(str).to_numpy() if "genome" in counts.var else np.array([], dtype=str)
        if genome not in genomes:
            raise ValueError(
                f"expected the genome {genome!r} in {path}; found {few(dict.fromkeys(genomes)) or 'none named'}"
            )
        keep &= genomes == genome
    if "feature_types" in counts.var:
        keep &= counts.var["feature_types"].to_numpy() == _EXPRESSION
    if not keep.any():
        raise ValueError(f"expected features of the type {_EXPRESSION!r} in {path}; found none")
    return counts if keep.all() else counts[:, keep].copy()


def check_h5(path: Path) -> None:
    """Raise `ValueError` unless an HDF5 file can be read whole, which another process tries."""
    with path.open("rb") as file:
        head = file.read(_OFFSETS[-1] + len(_SIGNATURE))
    if not any(head[start : start + len(_SIGNATURE)] == _SIGNATURE for start in _OFFSETS):
        what = "an empty file" if not head else f"a file that begins with {head[:8]!r}"
        raise ValueError(f"expected an HDF5 file at {path}; found {what}; fetch it again")
    if not sys.executable:  # an embedded Python has no program to start
        return
    size = path.stat().st_size
    limit, seconds = max(_RATIO * size, 2.0**26), _SECONDS + size / _SLOWEST
    command = [sys.executable, "-P", "-c", _TRIAL, str(path), str(limit)]
    try:
        trial = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        found = f"one that could not be read within {seconds:.0f} s"
    else:
        if trial.returncode in (0, _NO_H5PY):
            return
        last = (trial.stderr.strip().splitlines() or [""])[-1]
        found = (
            f"one that ends its reader (signal {-trial.returncode})"
            if trial.returncode < 0
            else f"a damaged one ({last})"
        )
    raise ValueError(f"expected an HDF5 file at {path}; found {found}; fetch it again")


def _groups(file: Any) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of `matrix`, or of each genome as Cell Ranger 2 wrote them, under the names of the newer format."""
    import h5py

    def arrays(group: Any) -> dict[str, np.ndarray]:
        return {name: np.asarray(item[()]) for name, item in group.items() if isinstance(item, h5py.Dataset)}

    if "matrix" in file:
        features = file["matrix"].get("features", {})
        return {"matrix": arrays(file["matrix"]) | {f"features/{k}": v for k, v in arrays(features).items()}}
    found = {name: arrays(item) for name, item in file.items() if isinstance(item, h5py.Group) and "indptr" in item}
    for group in found.values():
        group["features/id"], group["features/name"] = group["genes"], group["gene_names"]
    return found


def _assemble(arrays: dict[str, np.ndarray], path: Path) -> AnnData:
    """Check that arrays fit together before anything is computed with them."""
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    needed = ("data", "indices", "indptr", "shape", "barcodes", "features/id", "features/name")
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise ValueError(
            f"expected {few(needed, 9)} in the matrix of {path}; found no {few(missing, 9)}; fetch it again"
        )

    def refuse(what: str) -> ValueError:
        return ValueError(f"expected a whole matrix in {path}; found {what}; fetch it again")

    data, indices, indptr, shape = (arrays[name] for name in needed[:4])
    if any(arrays[name].ndim != 1 for name in (*needed, *_OPTIONAL) if name in arrays):
        raise refuse("arrays of the wrong shape")
    if any(array.dtype.kind not in "iu" for array in (indices, indptr, shape)) or data.dtype.kind not in "iuf":
        raise refuse("numbers of the wrong type")
    if shape.shape != (2,) or (shape < 0).any():
        raise refuse(f"the shape {shape.tolist()}")
    n_genes, n = int(shape[0]), int(shape[1])
    lengths = {"barcodes": n, "features/id": n_genes, "features/name": n_genes, "indptr": n + 1, "indices": len(data)}
    for name, length in lengths.items():
        if len(arrays[name]) != length:
            raise refuse(f"{len(arrays[name])} {name} for {length}")
    if indptr[0] != 0 or int(indptr[-1]) != len(data) or (np.diff(indptr.astype(np.int64)) < 0).any():
        raise refuse("pointers out of order")
    if len(indices) and (indices.min() < 0 or indices.max() >= n_genes):
        raise refuse(f"genes beyond {n_genes}")
    try:
        columns = {
            "gene_ids": _texts(arrays["features/id"]),
            **{name: _texts(arrays[key]) for key, name in _OPTIONAL.items() if len(arrays.get(key, ())) == n_genes},
        }
        names, barcodes = _texts(arrays["features/name"]), _texts(arrays["barcodes"])
    except (UnicodeDecodeError, AttributeError) as error:
        raise refuse(f"names that are no text ({error})") from error
    matrix = sparse.csr_matrix((data, indices.astype(np.int64), indptr.astype(np.int64)), shape=(n, n_genes))
    return AnnData(matrix, obs=pd.DataFrame(index=barcodes), var=pd.DataFrame(columns, index=names))


def _texts(values: np.ndarray) -> np.ndarray:
    return np.array([item.decode() if isinstance(item, bytes) else str(item) for item in values.tolist()], dtype=object)
