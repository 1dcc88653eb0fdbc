"""What an object holds of its sections: pictures and scale factors in `uns["spatial"]`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from stpredict.core._validate import check_positive
from stpredict.slots._keys import Key, escaped

if TYPE_CHECKING:
    from anndata import AnnData

_PARTS = ("images", "scalefactors", "metadata")


def section_entry(adata: AnnData, sample: str) -> Mapping[str, Any]:
    """`uns["spatial"][sample]`; empty where there is none. Names that no store accepts are keys in their escaped form.

    Raises
    ------
    ValueError
        When something else stands there than pictures and scale factors, as after a damaged or edited file.
    """
    where = f"uns[{Key.SPATIAL!r}]"
    sections = _mapping(adata.uns.get(Key.SPATIAL, {}), where)
    found = sections.get(sample)
    if found is None:
        found = sections.get(escaped(sample))
    where += f"[{sample!r}]"
    entry = _mapping({} if found is None else found, where)
    for part in _PARTS:
        _mapping(entry.get(part, {}), f"{where}[{part!r}]")
    for name, value in entry.get("scalefactors", {}).items():
        try:
            float(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"expected a number at {where}['scalefactors'][{name!r}]; found {str(value)[:40]!r}; read the section again, "
                "or correct it"
            ) from None
    return entry


def microns_per_pixel(adata: AnnData, sample: str, given: float | Mapping[str, float] | None = None) -> float:
    """µm per full-resolution pixel of a section: given, or read from its scale factors; an error when unknown."""
    if isinstance(given, Mapping):
        given = given.get(sample)
    value = given
    if value is None:
        value = section_entry(adata, sample).get("scalefactors", {}).get("microns_per_pixel")
    if value is None:
        raise ValueError(
            f"expected the µm per pixel of section {sample!r}; found none in "
            f"uns['spatial'][{sample!r}]['scalefactors']; pass `microns_per_pixel=`, or read the data with stp.io, "
            "which derives it from the lattice"
        )
    return check_positive(float(value), f"microns_per_pixel of section {sample!r}")


def kept_sections(uns: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Of a `uns`, the entries of `uns["spatial"]` of some sections."""
    wanted = {key for name in names for key in (str(name), escaped(str(name)))}
    sections = _mapping(uns.get(Key.SPATIAL, {}), f"uns[{Key.SPATIAL!r}]")
    return {key: entry for key, entry in sections.items() if key in wanted}


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping at {where}; found {type(value).__name__}; read the section again")
    return value
