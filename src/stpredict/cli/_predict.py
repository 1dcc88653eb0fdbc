"""`stpredict predict`: a map for every slide of a folder or a table, with what failed listed at the end."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.cli._items import Item

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.training import FittedModel

HELP = "predict a map for every slide of a folder or a table; what is done is skipped, what fails is listed at the end"
EXAMPLE = """stpredict predict slides/ --model models/ridge --out maps/
stpredict predict slides.csv --model models/fold0 models/fold1 --out maps/ --also ome-tiff --genes ERBB2 GNAS
stpredict predict slides/ --model models/ridge --out maps/ --client tcp://scheduler:8786
stpredict predict slides/ --model models/ridge --out maps/ --dry-run
stpredict predict maps/ --model models/outcome --out outcomes.csv"""

_MOST_CHANNELS = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from stpredict.cli._arguments import add_batch, add_compute, add_tiles

    parser.add_argument(
        "slides", type=Path,
        help="a slide, a folder of slides, or a table (.csv, .tsv) with the columns path and, where wanted, sample, patient and "
        "microns_per_pixel; objects with sections (.h5ad, .zarr) are taken as well",
    )  # fmt: skip
    parser.add_argument(
        "--model", nargs="+", required=True, help="folder of a saved model, or of several, which are averaged"
    )
    parser.add_argument(
        "--out", type=Path, required=True,
        help="folder for the maps, one {sample}.zarr for each slide; a file (.csv, .tsv) where the model is one of an outcome, "
        "which reads maps",
    )  # fmt: skip
    parser.add_argument(
        "--also", nargs="+", default=[], choices=["h5ad", "geotiff", "ome-tiff"], help="write these beside the maps"
    )
    parser.add_argument("--genes", nargs="+", help="genes of the TIFF files; all of the panel when left out")
    add_tiles(parser)
    parser.add_argument("--window", type=int, default=10, help="side of a window in tiles, for networks on bags")
    parser.add_argument("--stride", type=int, default=1, help="step between windows in tiles, for networks on bags")
    add_compute(parser)
    add_batch(parser)


@dataclass(frozen=True)
class Predict:
    """The job: from a slide, or an object with sections, to its map."""

    models: tuple[str, ...]
    digests: tuple[str, ...]
    out: Path
    also: tuple[str, ...]
    genes: tuple[str, ...]
    tiles: dict[str, Any] = field(hash=False)
    windows: dict[str, int] = field(hash=False)
    compute: dict[str, Any] = field(hash=False)
    microns_per_pixel: float | None
    overwrite: bool

    def place(self, item: Item) -> Path:
        """Path of the map."""
        return self.out / f"{item.name}.zarr"

    def is_done(self, item: Item) -> bool:
        """Whether the map is there, and what was asked for beside it."""
        from stpredict.cli._digest import is_there
        from stpredict.cli._map_formats import is_beside

        place = self.place(item)
        whole = is_there(place, self._made_of(item), overwrite=self.overwrite)
        return whole and all(is_beside(place, kind, self.genes) for kind in self._kinds(item))

    def work(self, item: Item) -> str:
        """Make the map, whole or not at all, and what was asked for beside it."""
        from stpredict.cli._digest import is_there, make_room
        from stpredict.cli._map_formats import beside, read_result, write_beside
        from stpredict.core._turns import remove

        place, content = self.place(item), self._made_of(item)
        if not is_there(place, content, overwrite=self.overwrite):
            if self.overwrite:
                make_room(place, content)
            for kind in self._kinds(item):  # of an earlier map
                remove(beside(place, kind))
            (self._map_of_slide if item.is_slide else self._map_of_sections)(item, place, content)
        for kind in self._kinds(item):
            write_beside(place, kind, self.genes)
        return _summary(read_result(place, genes=[]))

    def look(self, item: Item) -> str:
        """What an item is; raises where it cannot be opened."""
        from stpredict.cli._slides import looked_at

        return looked_at(item, self.microns_per_pixel)

    def _models(self) -> list[FittedModel]:
        from stpredict.cli._inputs import load_models

        return load_models(self.models, self.digests)

    def _kinds(self, item: Item) -> tuple[str, ...]:
        return self.also if item.is_slide else tuple(kind for kind in self.also if kind == "h5ad")

    def _made_of(self, item: Item) -> dict[str, Any]:
        """All that the map follows from: the slide, the models, and how the tiles are laid."""
        from stpredict.cli._digest import fingerprint
        from stpredict.cli._slides import scale_of

        scale = scale_of(item, self.microns_per_pixel) if item.is_slide else None
        return {
            "slide": fingerprint(item.path), "model": self.digests, "sample": item.name, "patient": item.patient,
            "µm_per_pixel": scale, "layout_of_tiles": self.tiles, "windows": self.windows,
        }  # fmt: skip

    def _map_of_slide(self, item: Item, place: Path, content: dict[str, Any]) -> None:
        import stpredict as stp
        from stpredict.cli._digest import digest_of, record_of
        from stpredict.cli._inputs import prepare_slide
        from stpredict.cli._map_formats import write_map
        from stpredict.cli._slides import opened
        from stpredict.slots._provenance import write_record
        from stpredict.tl.learn.targets._base import slots_of

        models = self._models()
        with opened(item, self.microns_per_pixel) as slide:
            table = prepare_slide(slide, models, self.tiles, self.compute)
            spec = slide.attrs["stpredict"]["tiles"]
            mpp = float(slide.attrs["slide_properties"]["mpp"])
        facts = {"stride_px": spec["stride_um"] / mpp, "microns_per_pixel": mpp}
        write_record(table, "shell", record_of(content, **facts))
        slots = slots_of(models[0].target.kind)
        options: dict[str, Any] = {
            "baselines": False,
            "device": self.compute.get("device"),
            "progress": False,
            **self.windows,
        }
        if "tokens" in models[0].network.needs and slots.stores:
            stp.tl.predict(table, models, store=place, **options)
            return
        stp.tl.predict(table, models, **options)
        write_map(table, slots.key(models[0].target), place, digest_of(content))

    def _map_of_sections(self, item: Item, place: Path, content: dict[str, Any]) -> None:
        import stpredict as stp
        from stpredict.cli._digest import record_of
        from stpredict.cli._inputs import prepare_sections
        from stpredict.cli._objects import read_sections
        from stpredict.slots._provenance import write_record

        (data, adata), models = read_sections(item.path), self._models()
        prepare_sections(data, models, self.compute)
        stp.tl.predict(adata, models, device=self.compute.get("device"), progress=False)
        write_record(adata, "shell", record_of(content))
        stp.io.write_zarr(adata, place)


def _summary(adata: AnnData) -> str:
    """How large a map is, and whether its models have seen the patient."""
    text = f"{adata.n_obs:,} tiles" if "tile_id" in adata.obs else f"{adata.n_obs:,} observations"
    for name in adata.obs:
        if name.endswith("_leaky") and (n := int((adata.obs[name].astype(str) == "True").sum())):
            text += ", SEEN in training" if n == adata.n_obs else f", {n:,} of them SEEN in training"
    return text


def make_job(options: argparse.Namespace, items: Sequence[Item]) -> Predict:
    """The job that the arguments describe; whatever cannot work for any slide raises here."""
    from stpredict.cli._arguments import compute_options, tile_options
    from stpredict.cli._inputs import check_models, load_models, model_digests

    paths = tuple(str(Path(path).expanduser().resolve()) for path in options.model)
    digests = model_digests(paths)
    models = load_models(paths, digests)
    compute = compute_options(options)
    if any(item.is_slide for item in items):  # objects may hold what nobody can compute for them
        check_models(models, compute["weights"])
    panel = models[0].panel
    unknown = [gene for gene in options.genes or [] if gene not in panel]
    if unknown:
        raise KeyError(f"expected genes of the model; found {unknown[0]!r}; take some of {', '.join(panel[:5])}, …")
    genes = tuple(options.genes or panel)
    if {"geotiff", "ome-tiff"} & set(options.also) and len(genes) > _MOST_CHANNELS:
        raise ValueError(
            f"expected at most {_MOST_CHANNELS} genes in a TIFF; found {len(genes)}; name some with --genes"
        )
    return Predict(
        paths, digests, options.out.expanduser().resolve(), tuple(dict.fromkeys(options.also)),
        genes, tile_options(options),
        {"window": options.window, "stride": options.stride}, compute, options.microns_per_pixel, options.overwrite,
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Predict the map of every slide; with a model of an outcome, a table of slides."""
    from stpredict.cli._arguments import check_out, run_items
    from stpredict.cli._items import find_items
    from stpredict.cli._outcomes import is_outcome, predict_outcomes

    if is_outcome(options.model):
        return predict_outcomes(options)
    check_out(options.slides, options.out)
    items = find_items(options.slides)
    return run_items(make_job(options, items), items, options)
