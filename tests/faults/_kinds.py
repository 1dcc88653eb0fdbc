"""All kinds, in the groups that are run together."""

from __future__ import annotations

from . import _tables
from ._kind import Kind

GROUPS: dict[str, tuple[Kind, ...]] = {"tables": _tables.KINDS}


def prepare() -> None:
    """Import what readings need once, before workers are forked, and leave the user's settings alone."""
    import h5py  # noqa: F401
    import PIL.Image  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import scipy.io  # noqa: F401
    import tifffile  # noqa: F401
    import zarr  # noqa: F401

    import stpredict as stp

    stp.settings.device, stp.settings.progress = "cpu", False
