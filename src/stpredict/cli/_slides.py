"""Slides as commands open them."""

from __future__ import annotations

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
