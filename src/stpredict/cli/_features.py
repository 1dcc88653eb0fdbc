"""`stpredict features`: image features of every slide of a folder or a table, or of sections."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stpredict.cli._items import Item

HELP = "compute image features of the tiles of every slide, or of sections"
EXAMPLE = """stpredict features slides/ --encoder color-texture --out tiles/
stpredict features slides.csv --encoder uni --weights uni=uni/pytorch_model.bin --tile-um 128 --out tiles/"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from stpredict.cli._arguments import add_batch, add_compute, add_tiles, positive

    parser.add_argument("slides", type=Path, help="as of `stpredict predict`")
    parser.add_argument("--encoder", default="color-texture", help="name of an encoder, see `stpredict encoders`")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the tables, one {sample}.h5ad for each slide"
    )
    parser.add_argument("--tile-um", type=positive, help="side of a tile in µm; that of the encoder when left out")
    parser.add_argument(
        "--context", type=positive, nargs="+", help="fields of view as multiples of a tile; (1,) on slides"
    )
    add_tiles(parser)
    add_compute(parser)
    add_batch(parser)


@dataclass(frozen=True)
class Features:
    """The job: from a slide, or an object with sections, to an object with features."""

    encoder: str
    fingerprint: str
    out: Path
    tile_um: float
    context: tuple[float, ...] | None
    tiles: dict[str, Any] = field(hash=False)
    compute: dict[str, Any] = field(hash=False)
    microns_per_pixel: float | None
    overwrite: bool

    def place(self, item: Item) -> Path:
        """Path of the table."""
        return self.out / f"{item.name}.h5ad"

    def is_done(self, item: Item) -> bool:
        """Whether the table is there."""
        from stpredict.cli._digest import is_there

        return is_there(self.place(item), self._made_of(item), overwrite=self.overwrite)

    def work(self, item: Item) -> str:
        """Compute the features and write the table."""
        import stpredict as stp
        from stpredict.cli._digest import record_of
        from stpredict.cli._inputs import with_picture
        from stpredict.cli._objects import read_sections, write_h5ad
        from stpredict.cli._slides import lay_tiles, opened
        from stpredict.slots._provenance import write_record

        options: dict[str, Any] = {
            name: self.compute[name] for name in ("device", "batch_size") if self.compute.get(name)
        }
        options |= {"weights": self.compute["weights"].get(self.encoder), "context": self.context}
        if item.is_slide:
            with opened(item, self.microns_per_pixel) as slide:
                lay_tiles(slide, self.tiles, tile_um=self.tile_um)
                stp.pp.image_features(slide, self.encoder, **options)
            adata = slide.tables[f"{self.encoder}_tiles"]
        else:
            data, adata = read_sections(item.path)
            with_picture(data, self.encoder, tile_um=self.tile_um, **options)
        write_record(adata, "shell", record_of(self._made_of(item)))
        write_h5ad(adata, self.place(item))
        return f"{adata.n_obs:,} {'tiles' if item.is_slide else 'observations'}"

    def look(self, item: Item) -> str:
        """What an item is; raises where it cannot be opened."""
        from stpredict.cli._slides import looked_at

        return looked_at(item, self.microns_per_pixel)

    def _made_of(self, item: Item) -> dict[str, Any]:
        """All that the table follows from."""
        from stpredict.cli._digest import fingerprint
        from stpredict.cli._slides import scale_of

        scale = scale_of(item, self.microns_per_pixel) if item.is_slide else None
        return {
            "slide": fingerprint(item.path), "encoder": self.fingerprint, "sample": item.name, "patient": item.patient,
            "µm_per_pixel": scale, "size_of_tiles": self.tile_um, "context": self.context, "layout_of_tiles": self.tiles,
        }  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Compute the features of every slide."""
    from stpredict.cli._arguments import check_out, compute_options, run_items, tile_options
    from stpredict.cli._items import find_items
    from stpredict.encoders import get_encoder

    check_out(options.slides, options.out)
    items, compute = find_items(options.slides), compute_options(options)
    encoder = get_encoder(options.encoder, compute["weights"].get(options.encoder))
    job = Features(
        options.encoder, encoder.fingerprint, options.out.expanduser().resolve(), options.tile_um or encoder.tile_um,
        tuple(options.context) if options.context else None, tile_options(options), compute, options.microns_per_pixel,
        options.overwrite,
    )  # fmt: skip
    return run_items(job, items, options)
