"""Reader of HEST-1k and of HEST-Bench."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._files import damage_named
from stpredict.core._validate import check_finite, check_positive, check_unique, few
from stpredict.io._check_positions import check_positions
from stpredict.io._counts_h5 import check_h5
from stpredict.io._hest_files import Patches, read_facts, read_gene_lists, read_patches, read_splits
from stpredict.io._section import build_section, check_folder, check_joined, join_sections, logger, record_reading
from stpredict.io._section_image import SectionImage
from stpredict.slots._content import seal_features
from stpredict.slots._keys import Key
from stpredict.slots._provenance import write_record

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

    from stpredict.encoders import Encoder

_TABLES = ("st", "adata")  # of HEST-1k and of a task of HEST-Bench
_SLIDES = ("wsis", ".tif", ".tiff")
_KEPT = (Key.ARRAY_ROW, Key.ARRAY_COL, Key.IN_TISSUE)
_FACTS = ("organ", "species", "st_technology", "oncotree_code", "disease_state", "dataset_title", "patient")
_SCALE = "pixel_size_um_estimated"


def read_hest(
    path: str | Path,
    ids: str | Sequence[str] | None = None,
    *,
    encoder: str | Encoder | None = None,
    weights: str | Path | None = None,
    patient: Mapping[str, str] | Callable[[str], str] | None = None,
    metadata: str | Path | None = None,
    microns_per_pixel: float | Mapping[str, float] | None = None,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    check: bool = True,
) -> AnnData:
    """Read samples of HEST-1k, or a task of HEST-Bench :cite:p:`jaume2024`.

    Of HEST-1k, `path` holds `st/{id}.h5ad`, and as far as they were downloaded `wsis/{id}.tif`, `patches/{id}.h5` and
    `metadata/{id}.json`. Of HEST-Bench, it is the folder of one task, with `adata/{id}.h5ad`, `patches/{id}.h5`, `splits`
    and lists of genes such as `var_50genes.json`.

    Slides are not opened here; :func:`stpredict.pp.image_features` reads them. The stored patches, 112 µm wide at 0.5 µm
    per pixel, are what HEST-Bench takes features from: pass `encoder=` to do so. Genes are those that all samples
    measured, since a gene that is on no panel of a sample is not zero there.

    Parameters
    ----------
    path
        Folder of the data, or of one task.
    ids
        Names of the samples, such as `"TENX99"`; all that are there when `None`.
    encoder
        Name of an encoder of :func:`stpredict.encoders.list_encoders`, or an encoder of
        :func:`stpredict.encoders.get_encoder`, to compute features of the stored patches with. Spots without a patch are
        left out then, and the others come in the order of the patches.
    weights
        Weight file of the encoder; the published weights, which are downloaded, when `None`.
    patient
        Patient of each sample, as a mapping or a function of its name; from the metadata when `None`, together with the
        title of the data set, as the first patient of two of them is not one person.
    metadata
        HEST's table of all samples (`HEST_v1_1_0.csv`) or folder of JSON files; those in `path` or beside it when `None`.
    microns_per_pixel
        µm per full-resolution pixel, or a mapping by sample; from the metadata when `None`, and without them from the
        patches and their spots.
    batch_size
        Number of patches read and encoded at once.
    device
        Device to run the encoder on; `settings.device` when `None`.
    progress
        Whether to show a progress bar; `settings.progress` when `None`.
    check
        Whether to refuse positions that lie clearly better on the tissue with x and y exchanged; pass `False` where
        they are right all the same. :func:`stpredict.pp.image_features` and others do not refuse them then either.

    Returns
    -------
    AnnData of all samples, observations named `{id}_{barcode}`, with

    - `X` and `layers["counts"]`: counts, sparse float32
    - `obs["sample"]`, `obs["patient"]` where known, `obs["measured"]`, and `in_tissue`, `array_row`, `array_col` where the
      files have them
    - `obs["split_{k}"]`: `"train"`, `"test"` or missing, for the splits of a task;
      :func:`stpredict.cohorts.recorded_folds` makes folds of them
    - `var["var_50genes"]` and so on: bool, the genes of each list of a task, to be passed as `target="var_50genes"`
    - `obsm["spatial"]`: x and y in full-resolution pixels
    - `obsm["X_{encoder}"]` and its record, as :func:`stpredict.pp.image_features` writes them, where `encoder` is given
    - `uns["spatial"][id]`: thumbnail `hires` and `tissue_hires_scalef` where the file has them, `spot_diameter_fullres`
      where known, `microns_per_pixel`, `source_image_path` where there is a slide, and what the metadata say of organ,
      species, technology, disease and origin
    - `uns["stpredict"]["read"]`: the reader

    Raises
    ------
    FileNotFoundError
        When the folder or a file of a sample is missing, or weights are needed and neither given nor reachable.
    KeyError
        When a sample has no patient in a mapping.
    ValueError
        When a file is damaged, counts are no counts, patches and spots have nothing in common, samples share no gene, the
        µm per pixel are not known, or splits or lists of genes do not fit.
    RuntimeError
        When the weights of the encoder are gated.

    Warns
    -----
    UserWarning
        When some patches have no spot, or some spots lie outside their slide; they are left out.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.io.read_hest("hest_data", ["TENX99", "NCBI785"])  # doctest: +SKIP
    >>> task = stp.io.read_hest("bench_data/IDC", encoder="uni2-h")  # doctest: +SKIP
    """
    root = check_folder(path, "pass the folder that holds st or adata")
    folder = next((root / name for name in _TABLES if (root / name).is_dir()), None)
    if folder is None:
        raise FileNotFoundError(
            f"expected a folder 'st' (HEST-1k) or 'adata' (a task of HEST-Bench) in {root}; found "
            f"{few(sorted(item.name for item in root.iterdir()), 8) or 'an empty folder'}; pass the folder that holds it"
        )
    known = {item.stem: item for item in sorted(folder.glob("*.h5ad")) if not item.name.startswith(".")}
    names = list(known) if ids is None else [ids] if isinstance(ids, str) else [str(name) for name in ids]
    check_unique(names, "ids")
    if not names or (missing := [name for name in names if name not in known]):
        lacking = few(f"{name}.h5ad" for name in (missing if names else [])) or "the tables of samples (*.h5ad)"
        raise FileNotFoundError(f"expected {lacking} in {folder}; found {few(known, 8) or 'none'}")
    if int(batch_size) != batch_size or batch_size < 1:
        raise ValueError(f"expected batch_size to be a positive whole number; found {batch_size!r}")
    splits, lists = read_splits(root), read_gene_lists(root)
    people = _given_patients(names, patient)
    network = None
    if encoder is not None:
        from stpredict.encoders import get_encoder

        network = get_encoder(encoder, weights, device)

    sections, patches = [], []
    for name in names:
        stored = read_patches(root / "patches" / f"{name}.h5") if network is not None else None
        facts = read_facts(root, name, metadata)
        mpp = microns_per_pixel.get(name) if isinstance(microns_per_pixel, Mapping) else microns_per_pixel
        person = _patient(facts) if people is None else people[name]
        sections.append(_read_section(root, known[name], name, stored, facts, mpp, person, check))
        patches.append(stored)
    adata = _joined(sections)
    if network is not None:
        _write_features(adata, network, [item for item in patches if item is not None], int(batch_size), progress)
    _write_task(adata, root, splits, lists)
    record_reading(adata, "read_hest", layout="HEST-1k" if folder.name == _TABLES[0] else "HEST-Bench")
    return adata


def _given_patients(
    names: Sequence[str], patient: Mapping[str, str] | Callable[[str], str] | None
) -> dict[str, str] | None:
    if patient is None:
        return None
    if isinstance(patient, Mapping):
        if missing := [name for name in names if name not in patient]:
            raise KeyError(f"expected the patient of every sample in `patient=`; missing {few(missing)}")
        return {name: str(patient[name]) for name in names}
    return {name: str(patient(name)) for name in names}


def _patient(facts: Mapping[str, Any]) -> str | None:
    """Patient by the metadata, told apart from those of other data sets."""
    if not facts.get("patient"):
        return None
    title = facts.get("dataset_title")
    return f"{facts['patient']} ({title})" if title else str(facts["patient"])


def _read_section(
    root: Path,
    path: Path,
    name: str,
    patches: Patches | None,
    facts: Mapping[str, Any],
    mpp: float | None,
    patient: str | None,
    check: bool,
) -> AnnData:
    import anndata
    import pandas as pd
    from scipy import sparse

    check_h5(path)
    with damage_named(path, "a table of spots (h5ad)"):
        table = anndata.read_h5ad(path)
        if sparse.issparse(table.X):
            table.X = table.X.tocsr()
            table.X.check_format(full_check=True)  # compiled code trusts its indices
    if table.X is None or Key.SPATIAL not in table.obsm:
        raise ValueError(f"expected counts in X and positions in obsm['spatial'] of {path}; found {few(table.obsm)}")
    check_unique(table.obs_names, f"barcodes in {path}")
    xy = np.asarray(table.obsm[Key.SPATIAL], dtype=float)[:, :2]
    check_finite(xy, f"positions in {path}", "fetch it again")
    if patches is not None:
        place = table.obs_names.get_indexer(pd.Index(patches.barcodes))
        check_joined(
            place >= 0, patches.barcodes, table.obs_names, f"patches of {patches.path.name}", f"spot in {path.name}",
            "check that both are of one sample", most=True,
        )  # fmt: skip
        table, xy = table[place[place >= 0]], xy[place[place >= 0]]
    if mpp is None:
        mpp = facts.get(_SCALE)
    if mpp is None:
        mpp = _scale_of_patches(root, name, patches, table, xy)
    with damage_named(path, "a picture in uns['spatial']"):
        images, scalefactors = _thumbnail(table.uns)
    slide = next((item for end in _SLIDES[1:] if (item := root / _SLIDES[0] / f"{name}{end}").is_file()), None)
    described = {key: str(facts[key]) for key in _FACTS if facts.get(key) is not None}
    if slide is not None:
        described["source_image_path"] = os.path.abspath(slide)
    if images:
        small, at = SectionImage(images["hires"]), xy * scalefactors["tissue_hires_scalef"]
        there = small.inside(at)
        if 2 * there.sum() > len(there):  # a registration may lay the rim of a sample beside its slide
            if not there.all():
                warnings.warn(
                    f"{int((~there).sum())} of {len(there)} spots of {name!r} lie outside its slide and are left out",
                    stacklevel=3,
                )
            table, xy, at = table[there], xy[there], at[there]
        check_positions(at, small, name, check=check)
    obs = pd.DataFrame({key: table.obs[key].to_numpy() for key in _KEPT if key in table.obs})
    obs.index = pd.Index(f"{name}_" + table.obs_names.to_numpy(dtype=object))
    var = pd.DataFrame(index=table.var_names.astype(str))
    if not var.index.is_unique:
        from anndata.utils import make_index_unique

        var.index = make_index_unique(var.index)
    return build_section(
        table.X, var, obs, xy, sample=name, patient=patient, microns_per_pixel=check_positive(mpp, f"{_SCALE} of {name!r}"),
        spot_diameter_um=facts.get("spot_diameter"), images=images, scalefactors=scalefactors, metadata=described,
        check=check,
    )  # fmt: skip


def _scale_of_patches(root: Path, name: str, patches: Patches | None, table: AnnData, xy: np.ndarray) -> float:
    """µm per pixel of the slide by the patches, whose size in µm is known."""
    import pandas as pd

    path = root / "patches" / f"{name}.h5"
    if patches is None and path.is_file():
        patches = read_patches(path)
    found = None
    if patches is not None and patches.corners is not None:
        place = table.obs_names.get_indexer(pd.Index(patches.barcodes))
        kept = Patches(patches.path, patches.barcodes[place >= 0], patches.corners[place >= 0], patches.side)
        found = kept.microns_per_pixel(xy[place[place >= 0]]) if (place >= 0).any() else None
    if found is None:
        raise ValueError(
            f"expected the µm per pixel of {name!r} as {_SCALE} of its metadata, or patches around its spots; found neither "
            f"in {root}; pass `metadata=`, or `microns_per_pixel=`"
        )
    return found


def _thumbnail(uns: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Downscaled picture of the file and its scale, where it has one."""
    entries = uns.get(Key.SPATIAL, {})
    for entry in entries.values() if isinstance(entries, Mapping) else ():
        picture = entry.get("images", {}).get("downscaled_fullres")
        factor = entry.get("scalefactors", {}).get("tissue_downscaled_fullres_scalef")
        if picture is not None and factor is not None and np.size(picture):
            scale = check_positive(float(factor), "tissue_downscaled_fullres_scalef")
            return {"hires": np.asarray(picture)}, {"tissue_hires_scalef": scale}
    return {}, {}


def _joined(sections: list[AnnData]) -> AnnData:
    """All samples with the genes that all of them measured."""
    shared = set(sections[0].var_names).intersection(*(section.var_names for section in sections[1:]))
    if not shared:
        raise ValueError(
            f"expected genes that all {len(sections)} samples measured; found none; read samples of one panel together"
        )
    left_out = max(section.n_vars for section in sections) - len(shared)
    if left_out:
        logger.info(
            "%d genes were measured in all %d samples; up to %d others are left out",
            len(shared),
            len(sections),
            left_out,
        )
    genes = sorted(shared)
    return join_sections([section[:, genes].copy() for section in sections])


def _write_features(
    adata: AnnData, network: Encoder, patches: Sequence[Patches], batch_size: int, progress: bool | None
) -> None:
    from tqdm.auto import tqdm

    from stpredict.core._settings import settings

    names = adata.obs[Key.SAMPLE].astype(str).to_numpy()
    spots = adata.obs_names.to_numpy(dtype=str)
    features = np.empty((adata.n_obs, network.dim), dtype=np.float32)
    total, show = sum(len(item.barcodes) for item in patches), settings.progress if progress is None else progress
    with tqdm(total=total, unit="patch", desc=network.name, disable=not show) as bar:
        for item in patches:
            name = item.path.stem
            rows = np.flatnonzero(names == name)
            place = {f"{name}_{barcode}": row for row, barcode in enumerate(item.barcodes)}
            features[rows] = item.features(network, batch_size, bar.update)[[place[spot] for spot in spots[rows]]]
    key = Key.features(network.name)
    check_finite(features, "features of patches", f"encoder {network.name!r} or its weights are broken")
    sides = {item.side_um for item in patches}
    if len(sides) > 1:
        raise ValueError(f"expected patches of one size; found {few(f'{side:g} µm' for side in sorted(sides))}")
    adata.obsm[key] = features
    write_record(
        adata,
        key,
        {
            "encoder": network.name,
            "fingerprint": network.fingerprint,
            "dim": features.shape[1],
            **seal_features(features, adata.obs[Key.SAMPLE]),
            "tile_um": sides.pop(),
            "tile_px": network.tile_px,
            "context": (1.0,),
            "microns_per_pixel": {
                name: float(adata.uns[Key.SPATIAL][key_of]["scalefactors"]["microns_per_pixel"])
                for name, key_of in zip(dict.fromkeys(names), adata.uns[Key.SPATIAL], strict=True)
            },
            "padded": dict.fromkeys(dict.fromkeys(names), 0),
        },
    )


def _write_task(
    adata: AnnData, root: Path, splits: Mapping[str, tuple[list[str], list[str]]], lists: Mapping[str, list[str]]
) -> None:
    """Splits and lists of genes of a task; splits of which a side was not read are left out."""
    import pandas as pd

    sample = adata.obs[Key.SAMPLE].astype(str)
    for name, (train, test) in splits.items():
        side = pd.Series(pd.NA, index=adata.obs_names, dtype="object")
        side[sample.isin(train).to_numpy()], side[sample.isin(test).to_numpy()] = "train", "test"
        if side.nunique() == 2:
            adata.obs[name] = pd.Categorical(side, categories=["train", "test"])
    for name, genes in lists.items():
        chosen = adata.var_names.isin(genes)
        if chosen.sum() != len(genes):
            lacking = [gene for gene in genes if gene not in adata.var_names]
            raise ValueError(
                f"expected the genes of {name}.json in {root} among those that all samples measured; found no {few(lacking)}"
            )
        adata.var[name] = chosen
