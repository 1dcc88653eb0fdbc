"""Full-resolution pictures of the sections of a cohort, opened one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.cohorts._section_files import kind_of, table_in
from stpredict.io._image import section_image
from stpredict.io._section_image import SectionImage
from stpredict.slots._sections import section_entry

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.cohorts._cohort import Cohort


class SectionPictures(Mapping[str, SectionImage]):
    """Picture of each section by its name, as :func:`stpredict.tl.fit` finds it in an object in memory.

    Parameters
    ----------
    cohort
        The sections, in whose files the pictures are that lie in no file of their own.
    given
        Pictures that the files do not record: a path, an array, or a mapping from section to either.
    """

    def __init__(self, cohort: Cohort, given: Any = None) -> None:
        self.paths, self.table_key, self.table, self.given = cohort.paths, cohort.table_key, cohort.table(), given

    def __getitem__(self, name: str) -> SectionImage:
        recorded = section_entry(self.table, name).get("metadata", {}).get("source_image_path")
        if self.given is not None or (recorded is not None and Path(str(recorded)).is_file()):
            return section_image(self.table, self.table, name, self.given)
        return section_image(*_with_pictures(self.paths[name], self.table_key), name)

    def __contains__(self, name: object) -> bool:
        return name in self.paths

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


def _with_pictures(path: Path, table_key: str) -> tuple[Any, AnnData]:
    """What a file holds of pictures, and of its table what is recorded of them."""
    from anndata import AnnData
    from anndata.io import read_elem

    if kind_of(path) == "spatialdata":
        import spatialdata

        data = spatialdata.read_zarr(path, selection=("images", "tables"))
        return data, data.tables[table_key]
    with table_in(path, table_key) as table:
        uns: Any = read_elem(table["uns"]) if "uns" in table else {}
    adata = AnnData(uns=uns)
    return adata, adata
