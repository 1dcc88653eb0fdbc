"""Where in a section a network finds its prediction of a gene: Grad-CAM and integrated gradients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._validate import check_choice
from stpredict.slots._checks import check_obs
from stpredict.slots._container import begin, find_table, get_table
from stpredict.slots._expression import in_tissue
from stpredict.slots._keys import Key, check_key
from stpredict.slots._provenance import write_record
from stpredict.slots._rows import rows_of
from stpredict.tl.explain._gradcam import check_grids, default_level, gradcam
from stpredict.tl.explain._integrated_gradients import check_baseline, integrated_gradients
from stpredict.tl.learn._members import find_models, source_of
from stpredict.tl.learn.inputs._collect import collect
from stpredict.tl.learn.inputs._slots import check_features

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from stpredict.models import Predictor
    from stpredict.slots._container import Container
    from stpredict.training import FittedModel

Method = Literal["gradcam", "integrated_gradients"]
_INCOMPLETE = 0.05  # of the difference of outputs: above it, more steps are called for
_CANCELED = 0.01  # of the sum of absolute contributions: the least that an error is measured against


def attribution(
    data: Container,
    model: FittedModel | str | Path | None,
    gene: str,
    *,
    method: Method | None = None,
    level: str | None = None,
    sample: str | Sequence[str] | None = None,
    steps: int = 32,
    baseline: Literal["mean", "zero"] | np.ndarray = "mean",
    per_feature: bool = False,
    sample_key: str = Key.SAMPLE,
    device: str | None = None,
    key_added: str | None = None,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Attribute a network's prediction of a gene to the tissue of each section.

    The explained value is the mean of the network's output over the in-tissue observations of a section.

    Grad-CAM :cite:p:`selvaraju2017` weights the channels of one level by their mean gradient over tissue, adds them,
    keeps what is positive and scales it to 0–1 within the section. It shows where the features are that raise the
    output, at the resolution of the level, for networks on grids; the map is 0, with a warning, where every cell lowers
    it. The zero of the sum is arbitrary: levels between the first and the last are often empty, or unrelated to the
    tissue that matters, because skip connections bypass them. At the last level before the genes the map is the
    prediction itself up to a constant, and adds nothing to the map of the gene.

    Integrated gradients :cite:p:`sundararajan2017` add up the gradient along the path from a baseline to the features;
    they are signed, in the unit of the output, and sum to the difference between the output at the features and at the
    baseline. The function checks and records how well they do. For a network that looks at one observation at a time
    they are, per observation, no more than its prediction minus that of the baseline, and only `per_feature` adds to
    it.

    Both explain the network. Neither says that the tissue there causes the expression.

    Parameters
    ----------
    data
        AnnData or SpatialData of sections with the features that the model was fitted on.
    model
        Fitted model, the directory of a saved one, or `None` for the one that :func:`stpredict.tl.fit` left in this
        object.
    gene
        Gene of the model's panel, or one of its classes.
    method
        Method of attribution; the one that fits the network when `None`: `"gradcam"` (networks on grids) or `"integrated_gradients"` (any network on
        features except those on bags).
    level
        Name of the part of the network whose channels Grad-CAM weights, any that returns grids, as in
        `network.named_modules()`. When `None`, the first one (`"encoder.0"` of `hist`), which has the resolution of the
        cells and comes before information is carried across the section.
    sample
        Sections to explain; all by default.
    steps
        Number of points on the path of integrated gradients.
    baseline
        Start of the path of integrated gradients: `"mean"` (of the section's features), `"zero"`, or features (d,).
    per_feature
        Whether to write the attribution of every feature as well, for integrated gradients.
    sample_key
        Column of `obs` that names the section.
    device
        Device to run on (`"cpu"`, `"cuda"`, …); `settings.device` when `None`.
    key_added
        Column of `obs` for the result; `"attribution_{gene}"` when `None`.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obs[key_added]`: attribution of each observation, NaN off tissue and in sections that were not asked for;
    - `obsm["{key_added}_features"]`: (n_obs, d) float32 with `per_feature`; rows sum to `obs[key_added]`;
    - `uns["stpredict"][key_added]`: method, gene, level, settings, and per section for integrated gradients
      `difference` (of the outputs) and `completeness_error` (of the sum, relative to the difference, or to a hundredth
      of the sum of absolute contributions where these nearly cancel).

    Raises
    ------
    KeyError
        When the gene is not in the panel, the level or section does not exist, or the features are missing.
    ValueError
        When the network is not of the kind that the method explains, it shuffles its cells, or its features are others
        than the training's.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Warns
    -----
    UserWarning
        When integrated gradients miss the difference of the outputs by more than 5 %, or a Grad-CAM map is empty.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> model = stp.tl.fit(adata, train=adata.obs["patient"] == "P1")
    >>> gene = model.panel[0]
    >>> stp.tl.attribution(adata, model, gene, method="integrated_gradients")
    >>> adata.obs[f"attribution_{gene}"].notna().all()
    np.True_
    """
    from stpredict.core._device import resolve_device

    check_key(key_added)
    if method is not None:
        check_choice(method, ("gradcam", "integrated_gradients"), "method")
    members = find_models(data, model, table_key)
    fitted, network = members[0], members[0].network
    if method is None:
        on_grids = "cell" in network.needs and not per_feature
        method = "gradcam" if on_grids or level is not None else "integrated_gradients"
    table_key = find_table(data, table_key, *members[0].features["slots"])
    source = get_table(data, table_key)
    if gene not in fitted.panel:
        raise KeyError(
            f"expected a gene of the model's panel; found {gene!r}; it has {len(fitted.panel)}: "
            f"{', '.join(fitted.panel[:5])}{', …' if len(fitted.panel) > 5 else ''}"
        )
    _check_network(network, fitted.model, method)
    if method == "gradcam" and per_feature:
        raise ValueError("expected method='integrated_gradients' with `per_feature=True`; found 'gradcam'")
    if method == "integrated_gradients" and level is not None:
        raise ValueError("expected `level=` with method='gradcam' only; found it with 'integrated_gradients'")
    if steps != int(steps) or steps < 1:
        raise ValueError(f"expected at least one step; found {steps!r}")
    check_obs(source, sample_key, "name the sections, or pass `sample_key=`")
    check_features(source, fitted.features)
    names = _samples(source, sample, sample_key)
    tissue = in_tissue(source)
    n_features = sum(entry["dim"] for entry in fitted.features["slots"].values())
    start = check_baseline(baseline, n_features)
    output = fitted.panel.index(gene)

    values = np.full(source.n_obs, np.nan)
    parts = np.full((source.n_obs, n_features), np.nan, dtype=np.float32) if per_feature else None
    errors: dict[str, float] = {}
    differences: dict[str, float] = {}
    empty: list[str] = []
    was_training = network.training
    target_device = resolve_device(device)
    try:
        network.eval().to(target_device)
        for name in names:
            mask = source.obs[sample_key].astype(str).to_numpy() == name
            rows, on_tissue = np.flatnonzero(mask), tissue[mask]
            section_rows = rows_of(source, mask, sample_key=sample_key, patient_key=None)
            arrays = collect(source_of(fitted, data, source, section_rows, sample_key=sample_key), network.needs)
            arrays = arrays.unmeasured()
            if method == "gradcam":
                level = default_level(network, arrays, target_device) if level is None else level
                section = gradcam(network, arrays, output, on_tissue, level, target_device)
            else:
                detail, differences[name] = integrated_gradients(
                    network, arrays, output, on_tissue, steps, start, target_device
                )
                section = detail.sum(axis=1)
                gap = abs(section.sum() - differences[name])
                # Around a mean, contributions cancel: of a difference of about 0 every rounding would be much.
                whole = max(abs(differences[name]), _CANCELED * float(np.abs(section).sum()))
                errors[name] = float(gap / whole) if whole else 0.0
                if parts is not None:
                    parts[rows[on_tissue]] = detail[on_tissue]
            values[rows[on_tissue]] = section[on_tissue]
            if method == "gradcam" and not section.any():
                empty.append(name)
    finally:
        network.to("cpu").train(was_training)
    incomplete = [name for name, error in errors.items() if error > _INCOMPLETE]
    if incomplete:
        warnings.warn(
            f"integrated gradients miss the difference of outputs by more than {_INCOMPLETE:.0%} in section "
            f"{incomplete[0]!r} ({len(incomplete)} in all); pass more `steps`",
            stacklevel=2,
        )
    if empty:
        warnings.warn(
            f"level {level!r} has no cell that raises {gene!r} above the others in section {empty[0]!r} ({len(empty)} "
            "in all), where the map is 0; take another level, or method='integrated_gradients'",
            stacklevel=2,
        )

    container, adata = begin(data, copy, table_key)
    key_added = key_added or Key.attribution(gene)
    adata.obs[key_added] = values
    if parts is not None:
        adata.obsm[f"{key_added}_features"] = parts
    record: dict[str, Any] = {"gene": gene, "model": fitted.model, "method": method, "samples": names, "level": level}
    if method == "integrated_gradients":
        record |= {
            "steps": steps, "baseline": baseline if isinstance(baseline, str) else "given", "difference": differences,
            "completeness_error": errors,
        }  # fmt: skip
    write_record(adata, key_added, record)
    return container if copy else None


def _check_network(network: Predictor, name: str, method: str) -> None:
    if "features" not in network.needs:
        reads = ", ".join(sorted(network.needs))
        raise ValueError(f"expected a network on the features of observations; found {name!r}, which reads {reads}")
    if method == "gradcam":
        check_grids(network, name)
    if getattr(network.config, "shuffle", False):
        raise ValueError(
            f"expected a network that reads cells where they lie; found {name!r} fitted with shuffle=True, which "
            "exchanges them in an order drawn from their features; fit it with shuffle=False"
        )


def _samples(adata: AnnData, sample: str | Sequence[str] | None, sample_key: str) -> list[str]:
    names = list(dict.fromkeys(adata.obs[sample_key].astype(str)))
    if sample is None:
        return names
    asked_names = [sample] if isinstance(sample, str) else [str(name) for name in sample]
    missing = [name for name in asked_names if name not in set(names)]
    if missing or not asked_names:
        raise KeyError(
            f"expected sections of obs[{sample_key!r}]; found {missing[0] if missing else 'an empty list'!r}; "
            f"choose among {sorted(names)}"
        )
    return asked_names
