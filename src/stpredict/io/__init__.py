"""Readers and writers."""

from stpredict.io._dense_files import read_dense
from stpredict.io._from_spatialdata import from_spatialdata
from stpredict.io._from_tables import from_tables
from stpredict.io._from_tiles import from_tiles
from stpredict.io._open_slide import open_slide
from stpredict.io._read_her2st import read_her2st
from stpredict.io._read_hest import read_hest
from stpredict.io._read_map import read_map
from stpredict.io._read_nuclei import read_nuclei
from stpredict.io._read_sequences import read_sequences
from stpredict.io._read_st import read_st
from stpredict.io._read_visium import read_visium
from stpredict.io._read_visium_hd import read_visium_hd
from stpredict.io._read_xenium import read_xenium
from stpredict.io._to_spatialdata import to_spatialdata
from stpredict.io._write_zarr import write_zarr

__all__ = [
    "from_spatialdata",
    "from_tables",
    "from_tiles",
    "open_slide",
    "read_dense",
    "read_her2st",
    "read_hest",
    "read_map",
    "read_nuclei",
    "read_sequences",
    "read_st",
    "read_visium",
    "read_visium_hd",
    "read_xenium",
    "to_spatialdata",
    "write_zarr",
]
