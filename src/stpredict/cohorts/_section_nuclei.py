"""Nuclei of the sections of a cohort, which stay in their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stpredict.cohorts._section_files import kind_of, table_in
from stpredict.slots._keys import escaped
from stpredict.slots._nuclei import nuclei_arrays, nuclei_shapes


class SectionNuclei(Mapping[str, Any]):
    """`uns[key]` of a table of all sections: the nuclei of each by its name, read when they are asked for.

    Parameters
    ----------
    files
        File of each section that has nuclei.
    key, table_key
        Name of the nuclei, and of the table of a SpatialData.
    """

    def __init__(self, files: Mapping[str, Path], key: str, table_key: str) -> None:
        self.files = {escaped(name): (name, path) for name, path in files.items()}
        self.key, self.table_key = key, table_key

    def __getitem__(self, name: str) -> Any:
        from anndata.io import read_elem

        sample, path = self.files[name]
        if kind_of(path) == "spatialdata":
            import spatialdata

            data = spatialdata.read_zarr(path, selection=("shapes", "tables"))
            shapes = nuclei_shapes(data, data.tables[self.table_key], self.key, sample)
            if shapes is None:
                raise KeyError(
                    f"expected shapes['{sample}_{self.key}'] in {path}; found {sorted(data.shapes)}; run stp.pp.nuclei first"
                )
            return nuclei_arrays(shapes)
        with table_in(path, self.table_key) as table:
            return read_elem(table["uns"][self.key][name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)
