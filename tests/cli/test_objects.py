"""Objects that commands read."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from stpredict.cli._objects import read_object, read_objects


class Told:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "change",
    [{"filters": [{"id": "pickle", "protocol": 5}]}, {"compressor": {"id": "pickle", "protocol": 5}}],
    ids=["filter", "compressor"],
)
@pytest.mark.parametrize("array", ["X", "obs/_index"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data")
def test_pickled_arrays_of_a_store_are_refused_unread(array: str, change: dict, tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    with ad.settings.override(zarr_write_format=2):
        ad.AnnData(np.ones((3, 2), np.float32), obs=pd.DataFrame(index=list("abc"))).write_zarr(store)
    (store / ".zmetadata").unlink(missing_ok=True)
    about = store / array / ".zarray"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"filters": None, "compressor": None} | change))
    chunks = [path for path in (store / array).rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert chunks
    for path in chunks:
        path.write_bytes(pickle.dumps(Told(tmp_path / "unpickled")))
    with pytest.raises(ValueError, match="expected an AnnData"):
        read_object(store)
    assert not (tmp_path / "unpickled").exists()
    pickle.loads(pickle.dumps(Told(tmp_path / "unpickled")))  # what would have happened
    assert (tmp_path / "unpickled").exists()


def test_objects_of_a_folder_are_joined_and_others_are_named(tmp_path: Path) -> None:
    for name in "ab":
        obs = pd.DataFrame({"sample": name}, index=[f"{name}{i}" for i in range(2)])
        ad.AnnData(np.ones((2, 2), np.float32), obs=obs).write_h5ad(tmp_path / f"{name}.h5ad")
    assert read_objects([tmp_path]).obs["sample"].tolist() == ["a", "a", "b", "b"]
    (tmp_path / "c.h5ad").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"expected an AnnData .*c\.h5ad; found what cannot be read"):
        read_objects([tmp_path])
    with pytest.raises(FileNotFoundError, match="correct the path"):
        read_object(tmp_path / "none.h5ad")
