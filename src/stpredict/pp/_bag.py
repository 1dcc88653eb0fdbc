"""Slides as bags of tokens, joined with bulk expression."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._validate import check_choice, check_unique, few
from stpredict.pp._bulk import Bulk, as_bulk, check_join, check_shared, join_bulk
from stpredict.pp._slide_tiles import SlideTiles, Source, list_sources, read_slide
from stpredict.pp._tokens import kmeans_tokens, mean_token, tile_order
from stpredict.slots._content import seal_features
from stpredict.slots._keys import Key
from stpredict.slots._made import differing
from stpredict.slots._provenance import write_record
from stpredict.slots._unit import say_slides

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container


@dataclass
class _Bag:
    slide: SlideTiles
    n_tiles: int
    mean: np.ndarray
    tokens: np.ndarray
    size: np.ndarray


def bag(
    slides: Mapping[str, Container | str | Path] | Iterable[Container | str | Path] | AnnData,
    encoder: str | None = None,
    *,
    expression: pd.DataFrame | AnnData | None = None,
    by: Literal["slide", "patient"] = "slide",
    patient: Mapping[str, str] | pd.Series | None = None,
    n_tokens: int = 100,
    method: Literal["kmeans", "mean"] = "kmeans",
    join: Literal["exact", "left"] = "exact",
    shared: bool = True,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    seed: int = 0,
    n_jobs: int = 1,
    progress: bool | None = None,
) -> AnnData:
    """Summarize the tiles of every slide by a bag of tokens, and join bulk expression by name.

    The tiles of a slide are clustered by k-means and the features of each cluster averaged :cite:p:`pizurica2024`. The
    tokens of a slide have no meaningful order: they come by the number of tiles behind them. A slide with no more
    different tiles than tokens keeps each of them as a token, and the rest is padding.

    Slides are read and summarized one after the other (`n_jobs` at once), so that memory is bounded by one slide. Bags
    do not depend on the order of the tiles, nor on the number of threads and jobs.

    Parameters
    ----------
    slides
        Mapping from the name of a slide to its SpatialData with a table `"{encoder}_tiles"` of
        :func:`stpredict.pp.image_features`, to such a table, or to the path of either (`.h5ad`, AnnData or SpatialData
        in Zarr); a sequence of these, whose names are read from `obs[sample_key]`; or one AnnData with the tiles of
        many slides, in the order of their names.
    encoder
        Encoder of the features, or their slot; not needed where a slide has features of one encoder only.
    expression
        Bulk expression, rows × genes, as a DataFrame or an AnnData whose `obs` columns (follow-up, covariates), `var`
        columns (biotypes) and layers are kept. Rows are joined by name, never by position.
    by
        Unit that the rows of `expression` are named after: `"slide"` or `"patient"`.
    patient
        Patient of each slide, where the tile tables do not name it or name a wrong one.
    n_tokens
        Number of tokens of a slide; not read for `method="mean"`.
    method
        Method of clustering: `"kmeans"`, clusters by Lloyd's algorithm from one k-means++ start; or `"mean"`, one token, the
        mean over all tiles, for networks that read nothing else (`hist2rna`).
    join
        Join of the slides with `expression`. `"exact"`: slides (or patients) and rows of `expression` must be the same.
        `"left"`: further rows are ignored, and slides without a row are unmeasured.
    shared
        Whether the slides of one patient share its expression, which is then checked. Pass `False` when each slide was
        sequenced by itself.
    sample_key
        Column of the tile tables that names the slide.
    patient_key
        Column of the tile tables that names the patient.
    seed
        Random seed for the clustering.
    n_jobs
        Number of slides read and clustered at once; each holds one slide in memory.
    progress
        Whether to show a progress bar; `settings.progress` when `None`.

    Returns
    -------
    AnnData, slides × genes, with

    - `X`: expression, float32; NaN for slides without. Without `expression` there are no genes.
    - `obs["sample"]`, `obs["patient"]`, `obs["n_tiles"]`, `obs["measured"]`, and the columns of an AnnData
      `expression`.
    - `obsm["X_{encoder}_bag"]`: tokens (n_slides, n_tokens, d) float32, zero where padded.
    - `obsm["X_{encoder}_bag_size"]`: tiles behind each token (n_slides, n_tokens) float32, 0 for padding.
    - `obsm["X_{encoder}"]`: mean over all tiles (n_slides, d) float32.
    - `uns["stpredict"]["X_{encoder}"]`: provenance of the features, the same for all slides except `microns_per_pixel`.
    - `uns["stpredict"]["X_{encoder}_bag"]`: `method`, `n_tokens`, `seed`, `features` (slot of the mean features), and
      `n_padded`, the number of slides with fewer tokens.

    Raises
    ------
    KeyError
        When a slide has no tile features, or several and no `encoder` names one.
    ValueError
        When rows of `expression` and slides do not match, a name occurs twice, slides of one patient differ in
        expression, a patient is unknown, features are not finite or were made in different ways, or a slide has no
        tiles.
    FileNotFoundError
        When there is nothing at a path.
    TypeError
        When a slide or `expression` is of another type.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import stpredict as stp
    >>> tiles = ad.AnnData(obs=pd.DataFrame({"sample": ["a"] * 6 + ["b"] * 3}, index=[f"t{i}" for i in range(9)]))
    >>> tiles.obsm["X_own"] = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
    >>> expression = pd.DataFrame({"ESR1": [5.0, 1.0], "ERBB2": [2.0, 9.0]}, index=["b", "a"])
    >>> patients = {"a": "P1", "b": "P2"}
    >>> adata = stp.pp.bag(tiles, "own", expression=expression, patient=patients, n_tokens=4)
    >>> adata.obsm["X_own_bag"].shape
    (2, 4, 4)
    >>> adata.obsm["X_own_bag_size"][1].tolist()
    [1.0, 1.0, 1.0, 0.0]
    >>> adata["a", "ERBB2"].X.item()
    9.0
    """
    check_choice(by, ("slide", "patient"), "by")
    check_choice(method, ("kmeans", "mean"), "method")
    check_choice(join, ("exact", "left"), "join")
    if isinstance(n_tokens, bool) or int(n_tokens) != n_tokens or n_tokens < 1:
        raise ValueError(f"expected n_tokens to be a positive whole number; found {n_tokens!r}")
    bulk = None if expression is None else as_bulk(expression)
    patient_of = {} if patient is None else {str(name): str(who) for name, who in dict(patient).items() if who == who}
    sources = list_sources(slides, sample_key)
    names = [source.name for source in sources if source.name is not None]
    if bulk is not None and len(names) == len(sources):  # before hours of reading, where it can be told
        if by == "slide":
            check_join(bulk, names, by, join)
        elif all(name in patient_of for name in names):
            check_join(bulk, [patient_of[name] for name in names], by, join)

    n_tokens = 1 if method == "mean" else int(n_tokens)
    summarize = mean_token if method == "mean" else partial(kmeans_tokens, n_tokens=n_tokens, seed=seed)
    bags = _summarize(sources, encoder, summarize, sample_key, patient_key, n_jobs, progress)
    names = [made.slide.name for made in bags]
    check_unique(names, "slides")
    patients = _patients(bags, patient_of, bulk, by, patient_key)
    units = names if by == "slide" else patients
    if bulk is not None:
        check_join(bulk, units, by, join)
    adata = join_bulk(bulk, units, names)
    if bulk is not None and by == "slide" and shared:
        check_shared(adata.X, adata.obs["measured"].to_numpy(), np.array(patients), names)
    return _assemble(adata, bags, patients, n_tokens, method, seed)


def _summarize(
    sources: Sequence[Source],
    encoder: str | None,
    summarize: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    sample_key: str,
    patient_key: str,
    n_jobs: int,
    progress: bool | None,
) -> list[_Bag]:
    import warnings

    import sklearn.cluster  # noqa: F401, its thread pools have to exist before they are limited
    from joblib import Parallel, delayed
    from threadpoolctl import threadpool_limits
    from tqdm.auto import tqdm

    from stpredict.core._settings import settings

    def work(source: Source) -> _Bag:
        slide = read_slide(source, encoder, sample_key, patient_key)
        slide.features = slide.features[tile_order(slide.features, slide.positions)]
        tokens, size = summarize(slide.features)
        mean = mean_token(slide.features)[0][0]
        n_tiles, slide.features, slide.positions = len(slide.features), slide.features[:0], None
        return _Bag(slide, n_tiles, mean, tokens, size)

    show_progress = settings.progress if progress is None else progress
    bags: list[_Bag] = []
    # The limit of BLAS holds for the whole process: set here once, so that no job lifts it while others still run.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is not present in the SpatialData.*")  # only tables are read
        run = Parallel(n_jobs=n_jobs, backend="threading", return_as="generator", pre_dispatch="n_jobs")
        made = run(delayed(work)(source) for source in sources)
        for one in tqdm(made, total=len(sources), unit="slide", desc="bag", disable=not show_progress):
            bags.append(one)
            _check_same(bags[0].slide, one.slide)
    return bags


def _check_same(first: SlideTiles, other: SlideTiles) -> None:
    """Raise when the features of two slides were made in different ways; name both sides."""
    sides = [f"slot: {first.key!r} and {other.key!r}"] if first.key != other.key else []
    sides += [
        f"{name}: {first.record.get(name)!r} and {other.record.get(name)!r}"
        for name in differing(first.record, other.record)
    ]
    if sides:
        raise ValueError(
            f"expected features made in one way for all slides; found for slides {first.name!r} and {other.name!r} "
            f"{'; '.join(sides)}; lay tiles of one size with stp.pp.tiles(slide, tile_um=…), run stp.pp.image_features with the "
            "same encoder, or name one of several with `encoder=`"
        )


def _patients(
    bags: Sequence[_Bag], known: Mapping[str, str], bulk: Bulk | None, by: str, patient_key: str
) -> list[str]:
    """Patient of each slide: given, from its tiles, or from the expression of slides."""
    told: dict[str, str] = {}
    if bulk is not None and by == "slide" and patient_key in bulk.obs:
        column = bulk.obs[patient_key]
        told = {name: str(who) for name, who, gap in zip(bulk.names, column, column.isna(), strict=True) if not gap}
    patients, unknown = [], []
    for made in bags:
        name, own = made.slide.name, made.slide.patient
        if name in known:
            patients.append(known[name])
        elif own is not None and told.get(name, own) != own:
            raise ValueError(
                f"expected one patient of slide {name!r}; found {own!r} in the tile table and {told[name]!r} in "
                "expression; say which with `patient=`"
            )
        elif own is not None or name in told:
            patients.append(own if own is not None else told[name])
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"expected the patient of every slide; found none for {few(unknown)}; set obs[{patient_key!r}] of the tile "
            "tables, or pass `patient=` as a mapping from slide to patient: splits have to be by patient"
        )
    return patients


def _assemble(
    adata: AnnData, bags: Sequence[_Bag], patients: list[str], n_tokens: int, method: str, seed: int
) -> AnnData:
    import pandas as pd

    slide = bags[0].slide
    tokens = np.zeros((len(bags), n_tokens, len(bags[0].mean)), dtype=np.float32)
    size = np.zeros((len(bags), n_tokens), dtype=np.float32)
    for row, made in enumerate(bags):
        tokens[row, : len(made.tokens)] = made.tokens
        size[row, : len(made.size)] = made.size
    first = {
        Key.SAMPLE: pd.Categorical([made.slide.name for made in bags]),
        Key.PATIENT: pd.Categorical(patients),
        "n_tiles": np.array([made.n_tiles for made in bags]),
    }
    own = pd.DataFrame(first, index=adata.obs_names)
    adata.obs = own.join(adata.obs.drop(columns=list(first), errors="ignore"))
    adata.obsm[slide.key] = np.stack([made.mean for made in bags])
    adata.obsm[Key.bag(slide.key)] = tokens
    adata.obsm[Key.bag_size(slide.key)] = size
    by_slide: dict[str, dict[str, Any]] = {}
    for made in bags:
        for what, value in made.slide.own.items():
            by_slide.setdefault(what, {})[made.slide.name] = value
    seal = seal_features(adata.obsm[slide.key], np.zeros(adata.n_obs))
    write_record(adata, slide.key, {**slide.record, **by_slide, **seal})
    say_slides(adata)
    entry: dict[str, Any] = {"method": method, "n_tokens": n_tokens, "seed": seed, "features": slide.key}
    sizes = {made.slide.name: made.slide.record.get("tile_um") for made in bags}
    if len(set(sizes.values())) > 1:  # the same but for rounding
        entry["tile_um"] = sizes
    write_record(adata, Key.bag(slide.key), {**entry, "n_padded": int((size[:, -1] == 0).sum())})
    return adata
