"""What an object holds of its sections: pictures and scale factors in `uns["spatial"]`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from stpredict.slots._keys import Key, escaped

if TYPE_CHECKING:
    from anndata import AnnData


def section_entry(adata: AnnData, sample: str) -> Mapping[str, Any]:
    """`uns["spatial"][sample]`; empty where there is none. Names that no store accepts are keys in their escaped form."""
    sections = adata.uns.get(Key.SPATIAL, {})
    found = sections.get(sample)
    if found is None:
        found = sections.get(escaped(sample))
    return {} if found is None else found


def kept_sections(uns: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Of a `uns`, the entries of `uns["spatial"]` of some sections."""
    wanted = {key for name in names for key in (str(name), escaped(str(name)))}
    return {key: entry for key, entry in uns.get(Key.SPATIAL, {}).items() if key in wanted}
