"""A cohort of simulated whole slides with bulk expression and survival."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_choice, check_positive
from stpredict.datasets._synthetic_cohort import check_count, check_range, generator
from stpredict.slots._keys import Key
from stpredict.slots._provenance import write_record
from stpredict.slots._unit import say_slides

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.datasets._histology import Stain
    from stpredict.datasets._mixture import Habit

_GRID_UM = 2.0
# Streams of random numbers: each patient and slide has its own, whatever the size of the cohort.
_GENES, _PATIENT, _SLIDE = range(3)


def synthetic_slides(
    n_patients: int = 24,
    slides_per_patient: int = 1,
    n_genes: int = 200,
    seed: int = 0,
    *,
    image_dir: str | os.PathLike[str],
    slide_um: float = 1800.0,
    margin_um: float = 200.0,
    microns_per_pixel: float = 1.0,
    signal_fraction: float = 0.75,
    interaction: float = 1.0,
    noise: float = 0.3,
    batch: float = 0.1,
    stain_shift: float = 0.12,
    hazard: Sequence[float] = (0.7, -0.5, -0.5),
    censoring: float = 0.35,
    gradient: str | None = None,
) -> AnnData:
    """Simulate whole slides with the bulk expression and the survival of their patients, whose truth is known.

    A slide is a section of tumor, stroma, immune infiltrate and fat on bare glass, drawn as by :func:`synthetic_cohort`
    with the stain vectors of :cite:t:`ruifrok2001`. Patients differ much in the shares of these classes, in the size of
    the tumor nests, and in where the immune cells lie: inside the tumor, at its margin, or away from it.

    The expression of a gene is a mixture, over the tissue of all slides of the patient, of what each class expresses.
    Two programs depend on the arrangement of the tissue as well: genes of immune response rise with the contact of
    tumor and immune cells on the slide, genes of hypoxia with the depth of the tumor nests. Expression is linear, in
    the range of FPKM-UQ (0–12 after log2(x + 1)), so that its logarithm is no linear function of the shares. Survival
    follows a Weibull model with proportional hazards :cite:p:`cox1972` and independent censoring.

    Parameters
    ----------
    n_patients
        Number of patients.
    slides_per_patient
        Number of slides of each patient, which vary around the patient.
    n_genes
        Number of genes.
    seed
        Random seed for all that is drawn. A slide, and the expression and survival of a patient, stay the same when
        patients are added. Genes depend on `seed`, `n_genes`, `signal_fraction` and `interaction` alone.
    image_dir
        Directory for the slides, made when missing. They are written there as `{sample}.tif`. Earlier synthetic
        slides are replaced, other files are not touched.
    slide_um
        Side of the tissue in µm.
    margin_um
        Width of the bare glass around the tissue in µm.
    microns_per_pixel
        Resolution of the slides in µm per pixel. Time and size of the files grow with its inverse square.
    signal_fraction
        Share of the genes that depend on the tissue; the others are flat.
    interaction
        Strength of the dependence on the arrangement: at 1, full contact (or full depth) raises the expression of a
        gene of these programs about 11 times; at 0, the shares of the classes determine everything.
    noise
        Standard deviation of the error of each gene in each patient, biological and technical, in log2(x + 1).
    batch
        Standard deviation of an error in log2(x + 1) that the genes of a patient share, with random loadings.
    stain_shift
        Standard deviation of the log strength of each stain between patients; see :func:`synthetic_cohort`.
    hazard
        Effects of the shares of tumor and immune infiltrate and of their contact on the log hazard, per (nominal)
        standard deviation between patients.
    censoring
        Expected share of censored patients, below 1.
    gradient
        Known course of the share of tumor along x, the same on all slides, in nests of about 50 µm; random when `None`.
        `"x"` rises linearly from 0.05 at the left end of the tissue to 0.9 at the right end; `"ridge"` rises linearly
        from 0.05 at the left end to 0.9 at 0.6 of the width and falls to 0.05 at the right end.

    Returns
    -------
    AnnData
        One observation per slide, with

        - `X`: bulk expression, linear and not negative, float32; the same for all slides of a patient.
        - `layers["expected"]`: the same without errors.
        - `obs`: `sample`, `patient`, `path` of the slide, `tumor`, `stroma`, `immune`, `fat` (shares of the tissue on
          the slide), `tissue_mm2`, `contact` (share of the tissue in tiles of 128 µm that hold both tumor and immune
          infiltrate, a tenth or more of each), `core` (mean depth of the tumor in its nests: 0 where tumor fills up
          to half of the surrounding 3 × 3 tiles, 1 where all of them), and of the patient `log_hazard`, `time` in
          months and `event`.
        - `var`: `gene_type` (biotype), `program` (class that the gene marks, `"response"`, `"hypoxia"` or `"flat"`)
          and `signal`.
        - `varm["profile"]`: expression of each class. `varm["context"]`: how much `contact` and `core` add to it, as
          multiples.
        - `uns["synthetic_slides"]`: `composition`, for each slide the shares of the area of each tile that the four
          classes cover, (rows, columns, 4) float32, on a lattice of `tile_um` µm that starts at the top left corner
          of the slide (tile `(i, j)` has its corner at `x = j * tile_um / microns_per_pixel` level-0 pixels); the
          rest of a tile is glass. `tile_um` is 128. :func:`expected_tiles` turns it into expression.
        - `uns["stpredict"]["synthetic_slides"]`: the parameters.

        The slides are tiled TIFF pyramids that openslide, tiffslide and wsidata open, with µm per pixel.

    Raises
    ------
    ValueError
        When a number is out of range or the gradient is unknown.
    NotADirectoryError
        When `image_dir` is a file.
    FileExistsError
        When a file lies where a slide is to be written that is no synthetic slide. Nothing is written then.
    TypeError
        When a number of patients, slides or genes is not a whole number.

    Examples
    --------
    >>> import tempfile
    >>> import stpredict as stp
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     adata = stp.datasets.synthetic_slides(3, 1, 20, image_dir=folder, slide_um=400, microns_per_pixel=4)
    >>> adata.shape
    (3, 20)
    >>> adata.obs["patient"].cat.categories.tolist()
    ['P1', 'P2', 'P3']
    """
    from stpredict.datasets._mixture import GRADIENTS, TILE_UM

    n_patients, n_slides = check_count(n_patients, "n_patients"), check_count(slides_per_patient, "slides_per_patient")
    n_genes, seed = check_count(n_genes, "n_genes"), check_count(seed, "seed", lowest=0)
    slide_um = check_positive(slide_um, "slide_um")
    if slide_um < 2 * TILE_UM:
        raise ValueError(f"expected slide_um to be at least {2 * TILE_UM:g}, two tiles; found {slide_um:g}")
    margin_um = check_range(margin_um, "margin_um")
    mpp = check_positive(microns_per_pixel, "microns_per_pixel")
    signal_fraction = check_range(signal_fraction, "signal_fraction", 1)
    interaction = check_range(interaction, "interaction")
    noise, batch = check_range(noise, "noise"), check_range(batch, "batch")
    stain_shift = check_range(stain_shift, "stain_shift", 1)
    effects = _effects(hazard)
    censoring = check_range(censoring, "censoring", 1)
    if censoring == 1:
        raise ValueError("expected censoring to be below 1; found 1, with which no event would be seen")
    if gradient is not None:
        check_choice(gradient, tuple(GRADIENTS), "gradient")

    import pandas as pd
    from anndata import AnnData

    from stpredict.datasets._bulk import (
        COVARIATES,
        FLAT,
        PROGRAMS,
        bulk_expression,
        draw_bulk,
        draw_bulk_genes,
        draw_survival,
        log_hazard,
    )
    from stpredict.datasets._histology import draw_stain
    from stpredict.datasets._mixture import contact_of_slide, core_of_tiles, draw_habit, vary_habit
    from stpredict.datasets._pyramid import write_pyramid
    from stpredict.datasets._tissue import CLASSES

    paths = _slide_paths(image_dir, n_patients, n_slides)
    genes = draw_bulk_genes(n_genes, signal_fraction, interaction, generator(seed, _GENES))
    loading = generator(seed, _GENES, 1).normal(0, 1, n_genes)
    rows: list[dict[str, Any]] = []
    measured, expected = (np.empty((len(paths), n_genes), np.float32) for _ in range(2))
    composition: dict[str, np.ndarray] = {}
    for patient in range(n_patients):
        person = generator(seed, _PATIENT, patient, 0)
        stain = draw_stain(stain_shift, person)
        habit = draw_habit(person)
        own: list[dict[str, Any]] = []
        for section in range(n_slides):
            sample, path = f"P{patient + 1}_S{section + 1}", paths[patient * n_slides + section]
            stream = (seed, _SLIDE, patient, section)
            tiles, image = _slide(
                slide_um,
                margin_um,
                mpp,
                vary_habit(habit, generator(*stream, 0)),
                gradient,
                draw_stain(stain_shift / 3, generator(*stream, 1), stain),
                stream,
            )
            write_pyramid(path, image, mpp)
            composition[sample] = tiles
            sums = tiles.sum(axis=(0, 1), dtype=float)
            tumor = tiles[..., CLASSES.index("tumor")].astype(float)
            own.append(
                {
                    Key.SAMPLE: sample,
                    Key.PATIENT: f"P{patient + 1}",
                    "path": str(path),
                    **dict(zip(CLASSES, sums / sums.sum(), strict=True)),
                    "tissue_mm2": sums.sum() * (TILE_UM / 1e3) ** 2,
                    "contact": contact_of_slide(tiles),
                    "core": float((tumor * core_of_tiles(tiles)).sum() / max(tumor.sum(), 1e-9)),
                }
            )
        area = np.array([row["tissue_mm2"] for row in own])
        weight = area / area.sum()
        slides_of_patient = slice(patient * n_slides, (patient + 1) * n_slides)
        mixture = weight @ np.stack([bulk_expression(composition[row[Key.SAMPLE]], genes) for row in own])
        expected[slides_of_patient] = mixture
        measured[slides_of_patient] = draw_bulk(mixture, noise, batch, loading, generator(seed, _PATIENT, patient, 1))
        covariates = weight @ np.array([[row[name] for name in COVARIATES] for row in own])
        log_risk = log_hazard(covariates, effects)
        time, event = draw_survival(log_risk, effects, censoring, generator(seed, _PATIENT, patient, 2))
        rows += [{**row, "log_hazard": log_risk, Key.TIME: time, Key.EVENT: event} for row in own]

    obs = pd.DataFrame(rows)
    obs.index = pd.Index(obs[Key.SAMPLE].to_numpy(), dtype=object)
    for key in (Key.SAMPLE, Key.PATIENT):
        obs[key] = pd.Categorical(obs[key], categories=obs[key].unique())
    var = pd.DataFrame(
        {
            "gene_type": pd.Categorical(genes.gene_type),
            "program": pd.Categorical(genes.program, categories=[*PROGRAMS, FLAT]),
            "signal": genes.signal,
        },
        index=pd.Index(genes.names, dtype=object),
    )
    adata = AnnData(
        measured,
        obs=obs,
        var=var,
        varm={
            "profile": pd.DataFrame(genes.profile, index=var.index, columns=list(CLASSES)),
            "context": pd.DataFrame(genes.context, index=var.index, columns=["contact", "core"]),
        },
        layers={Key.EXPECTED: expected},
        uns={"synthetic_slides": {"composition": composition, "tile_um": TILE_UM}},
    )
    say_slides(adata)
    write_record(
        adata,
        "synthetic_slides",
        {
            "n_patients": n_patients,
            "slides_per_patient": n_slides,
            "n_genes": n_genes,
            "seed": seed,
            "slide_um": slide_um,
            "margin_um": margin_um,
            "microns_per_pixel": mpp,
            "signal_fraction": signal_fraction,
            "interaction": interaction,
            "noise": noise,
            "batch": batch,
            "stain_shift": stain_shift,
            "hazard": effects,
            "censoring": censoring,
            "gradient": gradient,
        },
    )
    return adata


def _effects(hazard: Any) -> np.ndarray:
    try:
        effects = np.asarray(hazard, dtype=float)
    except (TypeError, ValueError):
        effects = np.full(0, np.nan)
    if effects.shape != (3,) or not np.isfinite(effects).all():
        raise ValueError(f"expected hazard to be three numbers, for tumor, immune and contact; found {hazard!r}")
    return effects


def _slide_paths(image_dir: str | os.PathLike[str], n_patients: int, n_slides: int) -> list[Path]:
    """Check the directory and the files in it, make it, and return the path of each slide."""
    from stpredict.datasets._pyramid import check_ours

    directory = Path(image_dir)
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"expected image_dir to be a directory; found a file at {directory}")
    directory = directory.resolve()
    paths = [directory / f"P{p + 1}_S{s + 1}.tif" for p in range(n_patients) for s in range(n_slides)]
    for path in paths:
        check_ours(path)
    directory.mkdir(parents=True, exist_ok=True)
    return paths


def _slide(
    slide_um: float,
    margin_um: float,
    mpp: float,
    habit: Habit,
    gradient: str | None,
    stain: Stain,
    stream: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Plan and render one slide: composition of its tiles (rows, columns, 4) and image (height, width, 3)."""
    from stpredict.datasets._histology import render
    from stpredict.datasets._mixture import arrange, composition_of_tiles
    from stpredict.datasets._tissue import fill_classes, plan_slide, tissue_mask

    rng, step = generator(*stream, 2), max(_GRID_UM, mpp)
    layout = plan_slide(slide_um, margin_um, rng)
    classes = arrange(tissue_mask(layout, step, rng), step, slide_um, habit, rng, gradient)
    tiles = composition_of_tiles(classes, step, layout.size_um)
    return tiles, render(fill_classes(classes, step, rng), layout.size_um, mpp, stain, generator(*stream, 3))
