"""Slides as commands open them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stpredict.cli._items import Item


def scale_of(item: Item, otherwise: float | None) -> float | None:
    """µm per pixel to open a slide with: what its row says; `None` where its file says it; else what was given for such."""
    from stpredict.io._open_slide import open_reader, recorded_scale

    if item.microns_per_pixel is not None or otherwise is None or not item.path.is_file():
        return item.microns_per_pixel
    reader = open_reader(item.path)
    try:
        return otherwise if recorded_scale(reader) is None else None
    finally:
        reader.detach_reader()


def lay_tiles(slide: Any, options: dict[str, Any], **size: Any) -> None:
    """Find the tissue of a slide, and lay tiles of a size over it, by the options of the shell."""
    import stpredict as stp

    tiles = dict(options)
    stp.pp.tissue(slide, min_area_um2=tiles.pop("min_tissue_um2"))
    stp.pp.tiles(slide, **size, **tiles)


@contextmanager
def opened(item: Item, otherwise: float | None) -> Iterator[Any]:
    """A slide, which is closed afterwards."""
    from stpredict.io import open_slide

    slide: Any = open_slide(item.path, scale_of(item, otherwise), sample=item.name, patient=item.patient)
    try:
        yield slide
    finally:
        slide.reader.detach_reader()


def looked_at(item: Item, otherwise: float | None) -> str:
    """What a slide is, in a few words; raises what opening it raises."""
    if not item.is_slide:
        if not item.path.exists():
            raise FileNotFoundError(f"expected an object at {item.path}; found nothing; correct the path")
        return "an object"
    with opened(item, otherwise) as slide:
        height, width = slide.reader.properties.shape
        return f"{width:,} x {height:,} px at {float(slide.attrs['slide_properties']['mpp']):g} µm per pixel"
