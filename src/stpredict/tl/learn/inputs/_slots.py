"""Which slots of an object hold image features, how they were made, and whether a model knows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_choice
from stpredict.slots._checks import check_obsm
from stpredict.slots._features import feature_matrix, is_tile_table
from stpredict.slots._keys import Key
from stpredict.slots._made import COMPARED, differing
from stpredict.slots._provenance import read_record, records
from stpredict.slots._stain import STAIN, recorded_reference, shown_stain
from stpredict.tl.learn.inputs._reader import Scaling

if TYPE_CHECKING:
    from anndata import AnnData

_COARSER = 1.5
#: Inputs that come from slots of image features.
FROM_SLOTS = frozenset({"features", "tokens", "neighbors", "section_features", "edges", "nuclei"})
_BESIDE = {"neighbors": Key.neighbors, "edges": Key.edges, "nuclei": Key.nuclei_drawn}


def feature_keys(adata: AnnData, features: str | Sequence[str] | None, *, bag: bool = False) -> list[str]:
    """Names of the feature slots: those asked for (by encoder or by slot), or the only one there is.

    With `bag=True` one slot whose tokens lie beside it.
    """
    call = "run stp.pp.bag(slides)" if bag else "run stp.pp.image_features(adata)"
    if features is None:
        recorded = [key for key in records(adata) if key.startswith("X_")]
        found = [key for key in recorded if (Key.bag(key) if bag else key) in adata.obsm and not _beside(key, recorded)]
        if not found and not bag:
            found = [key for key in recorded if feature_matrix(adata, key) is not None]
        if len(found) != 1:
            what = (
                f"several ({', '.join(sorted(found))}); name one with `features=`"
                if found
                else (
                    f"none among {sorted(adata.obsm)} that has a record in uns[{Key.UNS!r}]; {call} first, or name one with "
                    "`features=`; joining objects with stp.concat keeps their records"
                )
            )
            raise KeyError(f"expected one slot of {'bags' if bag else 'image features'} in obsm; found {what}")
        return found
    names = [features] if isinstance(features, str) else list(features)
    if bag and len(names) != 1:
        raise ValueError(f"expected one slot of bags for a network on bags; found {len(names)}; name one encoder")
    keys = [name if name.startswith("X_") else Key.features(name) for name in names]
    keys = [name if name in adata.obsm else key for name, key in zip(names, keys, strict=True)]
    for key in keys:
        if bag:
            check_obsm(adata, Key.bag(key), f"run stp.pp.bag(slides, {key.removeprefix('X_')!r})")
        elif feature_matrix(adata, key) is None:
            check_obsm(adata, key, f"run stp.pp.image_features(adata, encoder={key.removeprefix('X_')!r})")
    return keys


def _beside(key: str, others: Sequence[str]) -> bool:
    """Whether a slot was made of another one."""
    return any(key in {Key.bag(other), *(of(other) for of in _BESIDE.values())} for other in others)


def slots_read(needs: Iterable[str], slots: Sequence[str]) -> list[str]:
    """Slots of image features, and those beside them, that a network with these needs reads."""
    return [*slots, *(_BESIDE[name](slot) for name in sorted(set(needs) & _BESIDE.keys()) for slot in slots)]


def describe_features(adata: AnnData, keys: Sequence[str], scaling: Scaling, *, pixels: bool = False) -> dict[str, Any]:
    """What a model has to know about its features, or its pixels, to recognize them elsewhere."""
    check_choice(scaling, ("global", "section"), "scaling")
    slots = {}
    for key in keys:
        record = read_record(adata, key) or {}
        entry = {name: record[name] for name in COMPARED if name in record}
        values = feature_matrix(adata, key)
        width = adata.obsm[Key.bag(key)].shape[2] if values is None else values.shape[1]
        slots[key] = entry | {"dim": int(width)}
        if record.get("microns_per_pixel"):
            slots[key]["coarsest_um_per_px"] = max(record["microns_per_pixel"].values())
    described = {"slots": slots, "scaling": scaling}
    if pixels and (reference := recorded_reference(adata)) is not None:
        described[STAIN] = reference.to_dict()
    return described


def check_features(adata: AnnData, wanted: Mapping[str, Any]) -> None:
    """Raise when the features of an object are not those a model was fitted on; name both sides."""
    for key, entry in wanted["slots"].items():
        if feature_matrix(adata, key) is None and Key.bag(key) not in adata.obsm:
            check_obsm(adata, key, features_like(key, entry, adata))
        found = describe_features(adata, [key], wanted["scaling"])["slots"][key]
        names = [name for name in entry if name not in ("coarsest_um_per_px", STAIN)]
        # What was made before stains were written down is of pictures as they are.
        different = differing(entry, found, [*names, STAIN])
        # A finer picture is resampled to the same tile; one much coarser than any in training lacks the texture.
        if found.get("coarsest_um_per_px", 0.0) > entry.get("coarsest_um_per_px", np.inf) * _COARSER:
            different.append("coarsest_um_per_px")
        if different:
            sides = "; ".join(f"{name}: model {_shown(name, entry)}, data {_shown(name, found)}" for name in different)
            call = features_like(key, entry, adata)
            if read_record(adata, key) is None:
                sides = "no record of how it was made, as anndata.concat drops it"
                call = f"join objects with stp.concat, which keeps records, or {call}"
            if STAIN in different:
                call = f"run {_stained_like(entry.get(STAIN))}, then {call.removeprefix('run ')}"
            if different == ["coarsest_um_per_px"]:
                call = "read the sections with a finer picture: enlarged, it lacks the texture that the model reads"
            raise ValueError(
                f"expected obsm[{key!r}] made the way the model's training features were; found {sides}; {call}"
            )


def check_stain(adata: AnnData, wanted: Mapping[str, Any], needs: Iterable[str]) -> None:
    """Raise when a network would read pixels in other stains than those it was trained on."""
    if "patches" not in needs:
        return
    found = describe_features(adata, [], wanted["scaling"], pixels=True)
    if differing(wanted, found, [STAIN]):
        raise ValueError(
            f"expected pictures in the stains of the training; found stain: model {_shown(STAIN, wanted)}, data "
            f"{_shown(STAIN, found)}; run {_stained_like(wanted.get(STAIN))}"
        )


def _shown(name: str, entry: Mapping[str, Any]) -> str:
    return shown_stain(entry.get(STAIN)) if name == STAIN else repr(entry.get(name))


def _stained_like(entry: Mapping[str, Any] | None) -> str:
    return "stp.pp.normalize_stain(adata, reference=model)" if entry else "stp.pp.normalize_stain(adata, 'none')"


def features_like(key: str, entry: Mapping[str, Any], adata: AnnData | None) -> str:
    """The calls that give features as a model knows them: of a slide (`None`, or its tiles) or of sections."""
    encoder = repr(entry.get("encoder", key.removeprefix("X_")))
    tile_um = entry.get("tile_um")
    if adata is not None and (read_record(adata, "read") or {}).get("reader") == "from_tiles":
        size = "" if tile_um is None else f" of {tile_um:g} µm"
        return (
            f"read images of tiles{size} with stp.io.from_tiles(folder, {encoder}, microns_per_pixel=…), or fit a model on "
            "tiles like these"
        )
    if adata is None or is_tile_table(adata):
        return f"run stp.pp.tiles(slide, like=model), then stp.pp.image_features(slide, {encoder})"
    options = "" if tile_um is None else f", tile_um={tile_um:g}"
    if context := entry.get("context"):
        options += f", context=({', '.join(f'{scale:g}' for scale in context)}{',' * (len(context) == 1)})"
    return f"run stp.pp.image_features(adata, {encoder}{options})"


def unlike_sizes(adata: AnnData, wanted: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Sizes of tiles that are taken for those of a model but differ within rounding, for the record of a prediction."""
    found = {}
    for key, entry in wanted["slots"].items():
        own = (read_record(adata, key) or {}).get("tile_um")
        if own is not None and entry.get("tile_um") not in {None, own}:
            found[key] = {"model": float(entry["tile_um"]), "data": float(own)}
    return found


def split_features(features: Any) -> tuple[str | Sequence[str] | None, Scaling | None]:
    """Slots and scaling of what users pass as `features`: slots, or a mapping with `"slot"` and `"scaling"`.

    Both are `None` where they are not said.
    """
    if not isinstance(features, Mapping):
        return features, None
    unknown = sorted(set(features) - {"slot", "scaling"})
    if unknown:
        raise TypeError(f"expected 'slot' and 'scaling' in features; found {', '.join(map(repr, unknown))}")
    scaling = features.get("scaling")
    if scaling is not None:
        check_choice(scaling, ("global", "section"), "scaling")
    return features.get("slot"), scaling
