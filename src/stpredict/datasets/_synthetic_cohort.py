"""A cohort of simulated sections."""

from __future__ import annotations

import operator
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_choice, check_positive
from stpredict.slots._keys import Key
from stpredict.slots._provenance import write_record

if TYPE_CHECKING:
    from anndata import AnnData

_PITCH_UM = {"square": 200.0, "hex": 100.0}
_SPOT_DIAMETER_UM = {"square": 100.0, "hex": 55.0}
_CONTEXT_PITCHES = 1.5  # radius of the surroundings
_GRID_UM = 2.0
# Streams of random numbers: each patient and section has its own, whatever the size of the cohort.
_GENES, _PATIENT, _SECTION = range(3)


def synthetic_cohort(
    n_patients: int = 4,
    n_sections: int = 2,
    n_genes: int = 200,
    seed: int = 0,
    *,
    n_spots: int = 200,
    counts_per_spot: float = 2000,
    lattice: str = "square",
    pitch_um: float | None = None,
    microns_per_pixel: float = 1.0,
    signal_fraction: float = 0.75,
    dispersion: float = 0.2,
    depth_dispersion: float = 0.1,
    neighborhood: float = 0.0,
    batch: float = 0.15,
    stain_shift: float = 0.12,
    image_dir: str | os.PathLike[str] | None = None,
) -> AnnData:
    """Simulate a cohort of stained sections with spatial counts whose truth is known.

    A section is a field of tumor, stroma, immune infiltrate and fat. Its picture is rendered from that field (glands,
    collagen, lymphocytes, fat cells, in hematoxylin and eosin by the law of Lambert and Beer with the stain vectors of
    :cite:t:`ruifrok2001`), and its counts are drawn from the same field. What can be predicted from a picture is
    therefore known exactly: see the layers below.

    The rate of a gene with signal is log-linear in the composition of the spot. Counts are Poisson around that rate,
    times a capture efficiency shared by the spot and, for genes with signal, times gene-specific variation that no
    picture shows; the counts of such a gene are negative binomial, with variance `mu + dispersion * mu**2` at given
    efficiency. Flat genes are Poisson at a constant share of the counts.

    Parameters
    ----------
    n_patients
        Number of patients, each with tissue preferences, stain and gene offsets of its own.
    n_sections
        Number of sections of each patient.
    n_genes
        Number of genes.
    seed
        Random seed for all that is drawn. A section stays the same when patients or sections are added.
    n_spots
        Number of spots of each section.
    counts_per_spot
        Mean number of counts of a spot.
    lattice
        Lattice of the spots: `"square"` (legacy Spatial Transcriptomics, spots of 100 µm) or `"hex"` (Visium, spots of
        55 µm).
    pitch_um
        Distance between neighboring spots in µm; when `None`, 200 on a square lattice and 100 on a hexagonal one.
    microns_per_pixel
        Resolution of the pictures in µm per pixel. Nuclei are well resolved up to about 1. Time and memory grow with
        its inverse square.
    signal_fraction
        Share of the genes that depend on the tissue; the others are flat.
    dispersion
        Squared coefficient of variation of the gene-specific variation.
    depth_dispersion
        Squared coefficient of variation of the capture efficiency.
    neighborhood
        Standard deviation of the loadings on the mean composition within 1.5 pitches of the spot, per unit of
        composition. With 0 the expectation depends on the spot alone; the loadings on the spot itself are about 2.
    batch
        Standard deviation of the shift of a gene's log rate between patients. Flat genes have none.
    stain_shift
        Standard deviation of the log strength of each stain between patients; stain vectors and background vary in
        proportion, and sections of a patient by a third of it.
    image_dir
        Directory for the images, made when missing. With it the full-resolution images are written there as
        `{sample}.png` and only a thumbnail is kept in the object.

    Returns
    -------
    AnnData
        All sections, with

        - `layers["counts"]` and `X`: counts, CSR.
        - `layers["morphology"]`: expected counts at mean depth given the tissue, which is what the picture
          determines (times the offset of the patient).
        - `layers["expected"]`: Poisson rate of the counts, which is `morphology` times the capture efficiency and the
          gene-specific variation. No prediction can come closer to the counts.
        - `obs`: `sample`, `patient`, `array_row`, `array_col`, `in_tissue`, `label` (most frequent class), `tumor`,
          `stroma`, `immune`, `fat` (shares of the classes within the spot), `capture_efficiency` (mean 1).
        - `var`: `program` (class that the gene marks, or `"flat"`) and `signal`.
        - `varm["loadings"]`: change of a gene's log rate per unit of each class.
        - `obsm["spatial"]`: x and y in full-resolution pixels.
        - `uns["spatial"][sample]`: `images["hires"]`, `scalefactors`, `metadata` (with `source_image_path` when
          written).
        - `uns["stpredict"]["synthetic_cohort"]`: the parameters.

    Raises
    ------
    ValueError
        When a number is out of range or the lattice is unknown.
    NotADirectoryError
        When `image_dir` is a file.
    TypeError
        When a number of patients, sections, genes or spots is not a whole number.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(2, 1, 20, n_spots=12)
    >>> adata.shape
    (24, 20)
    >>> adata.obs["patient"].cat.categories.tolist()
    ['P1', 'P2']
    """
    n_patients, n_sections = check_count(n_patients, "n_patients"), check_count(n_sections, "n_sections")
    n_genes, n_spots = check_count(n_genes, "n_genes"), check_count(n_spots, "n_spots")
    seed = check_count(seed, "seed", lowest=0)
    check_choice(lattice, tuple(_PITCH_UM), "lattice")
    counts_per_spot = check_positive(counts_per_spot, "counts_per_spot")
    mpp = check_positive(microns_per_pixel, "microns_per_pixel")
    pitch_um = _PITCH_UM[lattice] if pitch_um is None else check_positive(pitch_um, "pitch_um")
    signal_fraction = check_range(signal_fraction, "signal_fraction", 1)
    dispersion = check_range(dispersion, "dispersion")
    depth_dispersion = check_range(depth_dispersion, "depth_dispersion")
    neighborhood = check_range(neighborhood, "neighborhood")
    batch = check_range(batch, "batch")
    stain_shift = check_range(stain_shift, "stain_shift", 1)
    directory = None if image_dir is None else Path(image_dir)
    if directory is not None:
        if directory.exists() and not directory.is_dir():
            raise NotADirectoryError(f"expected image_dir to be a directory; found a file at {directory}")
        directory.mkdir(parents=True, exist_ok=True)

    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    from stpredict.datasets._expression import FLAT, draw_counts, draw_genes, shares
    from stpredict.datasets._histology import draw_stain
    from stpredict.datasets._tissue import CLASSES

    genes = draw_genes(n_genes, signal_fraction, neighborhood, generator(seed, _GENES))
    obs, positions, counts, expected, morphology = [], [], [], [], []
    spatial: dict[str, dict[str, Any]] = {}
    for patient in range(n_patients):
        person = generator(seed, _PATIENT, patient, 0)
        stain = draw_stain(stain_shift, person)
        bias = person.normal(0, 0.25, len(CLASSES))
        offset = generator(seed, _PATIENT, patient, 1).normal(0, 1, n_genes) * batch
        for section in range(n_sections):
            stream = (seed, _SECTION, patient, section)
            sample = f"P{patient + 1}_S{section + 1}"
            table, xy, surroundings, image = _section(
                n_spots,
                lattice,
                pitch_um,
                mpp,
                bias,
                draw_stain(stain_shift / 3, generator(*stream, 0), stain),
                stream,
            )
            share = shares(genes, table[list(CLASSES)].to_numpy(), surroundings, offset)
            drawn, rate, efficiency = draw_counts(
                share * counts_per_spot, genes.signal, dispersion, depth_dispersion, generator(*stream, 3)
            )
            table.insert(0, Key.SAMPLE, sample)
            table.insert(1, Key.PATIENT, f"P{patient + 1}")
            table["capture_efficiency"] = efficiency
            table.index = [f"{sample}_{r}x{c}" for r, c in zip(table[Key.ARRAY_ROW], table[Key.ARRAY_COL], strict=True)]
            obs.append(table)
            positions.append(xy)
            counts.append(sparse.csr_matrix(drawn.astype(np.float32)))
            expected.append(rate.astype(np.float32))
            morphology.append((share * counts_per_spot).astype(np.float32))
            spatial[sample] = _spatial_entry(image, sample, mpp, _SPOT_DIAMETER_UM[lattice] / mpp, directory)

    table = pd.concat(obs)
    for key in (Key.SAMPLE, Key.PATIENT):
        table[key] = pd.Categorical(table[key], categories=table[key].unique())
    table[Key.LABEL] = pd.Categorical(table[Key.LABEL], categories=list(CLASSES))
    stacked = sparse.vstack(counts, format="csr")
    var = pd.DataFrame(
        {"program": pd.Categorical(genes.program, categories=[*CLASSES, FLAT]), "signal": genes.signal},
        index=genes.names,
    )
    adata = AnnData(
        stacked,
        obs=table,
        var=var,
        obsm={Key.SPATIAL: np.concatenate(positions)},
        varm={"loadings": pd.DataFrame(genes.loadings, index=genes.names, columns=list(CLASSES))},
        layers={
            Key.COUNTS: stacked.copy(),
            Key.EXPECTED: np.concatenate(expected),
            "morphology": np.concatenate(morphology),
        },
        uns={"spatial": spatial},
    )
    write_record(
        adata,
        "synthetic_cohort",
        {
            "n_patients": n_patients,
            "n_sections": n_sections,
            "n_genes": n_genes,
            "seed": seed,
            "n_spots": n_spots,
            "counts_per_spot": counts_per_spot,
            "lattice": lattice,
            "pitch_um": pitch_um,
            "microns_per_pixel": mpp,
            "signal_fraction": signal_fraction,
            "dispersion": dispersion,
            "depth_dispersion": depth_dispersion,
            "neighborhood": neighborhood,
            "batch": batch,
            "stain_shift": stain_shift,
        },
    )
    return adata


def generator(seed: int, *stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))


def check_count(value: int, name: str, lowest: int = 1) -> int:
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"expected {name} to be a whole number; found {value!r}") from error
    if number < lowest:
        raise ValueError(f"expected {name} to be at least {lowest}; found {number}")
    return number


def check_range(value: Any, name: str, highest: float = np.inf) -> float:
    number = float(value) if isinstance(value, (int, float, np.integer, np.floating)) else np.nan
    if not (np.isfinite(number) and 0 <= number <= highest):
        limit = "a number of at least 0" if np.isinf(highest) else f"a number between 0 and {highest:g}"
        raise ValueError(f"expected {name} to be {limit}; found {value!r}")
    return number


def _section(
    n_spots: int, lattice: str, pitch_um: float, mpp: float, bias: np.ndarray, stain: Any, stream: tuple[int, ...]
) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """Plan and render one section: spot table, pixel positions (n, 2), surroundings (n, 4), and image."""
    import pandas as pd

    from stpredict.datasets._histology import render
    from stpredict.datasets._tissue import CLASSES, composition_at, plan_section, plan_tissue

    diameter_um = _SPOT_DIAMETER_UM[lattice]
    rng = generator(*stream, 1)
    layout = plan_section(n_spots, lattice, pitch_um, diameter_um, rng)
    plan = plan_tissue(layout, max(_GRID_UM, mpp), bias, rng)
    step = plan.step_um
    composition = composition_at(plan.classes, layout.xy_um / step, diameter_um / 2 / step)
    skip = max(1, int(pitch_um / 25 / step))  # the surroundings need fewer points
    surroundings = composition_at(
        plan.classes[::skip, ::skip], layout.xy_um / (step * skip), _CONTEXT_PITCHES * pitch_um / (step * skip)
    )
    table = pd.DataFrame({Key.ARRAY_ROW: layout.row, Key.ARRAY_COL: layout.column, Key.IN_TISSUE: True})
    table[Key.LABEL] = np.array(CLASSES)[composition.argmax(axis=1)]
    table[list(CLASSES)] = composition
    return table, layout.xy_um / mpp, surroundings, render(plan, layout.size_um, mpp, stain, generator(*stream, 2))


def _spatial_entry(
    image: np.ndarray, sample: str, mpp: float, spot_diameter_px: float, directory: Path | None
) -> dict[str, Any]:
    factor, metadata = 1.0, {}
    if directory is not None:
        from PIL import Image

        from stpredict.core._turns import fresh_path, turn
        from stpredict.io._image import SectionImage

        path = directory.resolve() / f"{sample}.png"
        with turn(path):
            partial = fresh_path(path)  # a reader never sees half an image
            try:
                Image.fromarray(image).save(partial, format="PNG", compress_level=1)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        metadata = {"source_image_path": str(path)}
        image, factor = SectionImage(image).thumbnail()
    return {
        "images": {"hires": image},
        "scalefactors": {
            "tissue_hires_scalef": factor,
            "spot_diameter_fullres": spot_diameter_px,
            "microns_per_pixel": mpp,
        },
        "metadata": metadata,
    }
