"""Where in a section a network finds its prediction of a gene: Grad-CAM and integrated gradients."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict import _provenance
from stpredict._container import begin, get_table
from stpredict._keys import Key
from stpredict._slots import in_tissue
from stpredict._validate import check_choice, check_obs
from stpredict.tl._collect import Inputs, check_features, collect
from stpredict.tl._predict import _find_models

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from anndata import AnnData

    from stpredict._container import Container
    from stpredict.models import Batch, Prediction, Predictor
    from stpredict.training import ArraySet, FittedModel

Method = Literal["gradcam", "integrated_gradients"]
_INCOMPLETE = 0.05  # of the difference of outputs: above it, more steps are called for
_CANCELED = 0.01  # of the sum of absolute contributions: the least that an error is measured against
_CHUNK = 512  # observations per step of networks that look at one at a time


def attribution(
    data: Container,
    model: FittedModel | str | Path | None,
    gene: str,
    *,
    method: Method = "gradcam",
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
    """Map what a network's prediction of a gene rests on, on the tissue of each section.

    What is explained is the mean of the network's output over the in-tissue observations of a section.

    Grad-CAM :cite:p:`selvaraju2017` weights the channels of one level by their mean gradient over tissue, adds them,
    keeps what is positive and scales it to 0–1 within the section. It shows where the features are that raise the
    output, at the resolution of the level, for networks on grids. Integrated gradients :cite:p:`sundararajan2017` add
    up the gradient along the way from a baseline to the features; they are signed, in the unit of the output, and sum
    to the difference between the output at the features and at the baseline. How well they do is checked and recorded.
    For a network that looks at one observation at a time they are, per observation, no more than its prediction minus
    that of the baseline, and only `per_feature` adds to it.

    Both explain the network. Neither says that the tissue there causes the expression.

    Parameters
    ----------
    data
        Sections with the features that the model was fitted on.
    model
        Fitted model, the directory of a saved one, or the one that :func:`stpredict.tl.fit` left in this object when
        `None`.
    gene
        Gene of the model's panel, or one of its classes.
    method
        `"gradcam"` (networks of unit `"grid"`) or `"integrated_gradients"` (any network on features but those on
        bags).
    level
        For Grad-CAM: name of the part of the network whose channels are weighted, any that returns grids, as in
        `network.named_modules()`. By default the last one at the coarsest resolution.
    sample
        Sections to explain; all by default.
    steps
        For integrated gradients: points on the way.
    baseline
        For integrated gradients: `"mean"` (of the section's features), `"zero"`, or features (d,).
    per_feature
        For integrated gradients: also write the attribution of every feature.
    sample_key
        Column of `obs` that names the section.
    device
        `"cpu"`, `"cuda"`, …; `settings.device` when `None`.
    key_added
        Column of the result; `"attribution_{gene}"` when `None`.
    copy
        Return a changed copy instead of changing `data`.
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
        When the network is not of the kind that the method explains, or its features are others than the training's.

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
    from stpredict._device import resolve_device

    check_choice(method, ("gradcam", "integrated_gradients"), "method")
    members = _find_models(data, model, table_key)
    fitted, network = members[0], members[0].network
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
        raise ValueError(
            "expected `level=` with method='gradcam' only; found it with 'integrated_gradients', which attribute to "
            "the features"
        )
    if steps != int(steps) or steps < 1:
        raise ValueError(f"expected at least one step; found {steps!r}")
    check_obs(source, sample_key, "name the sections, or pass `sample_key=`")
    check_features(source, fitted.features)
    names = _samples(source, sample, sample_key)
    tissue = in_tissue(source)
    n_features = sum(entry["dim"] for entry in fitted.features["slots"].values())
    start = _check_baseline(baseline, n_features)
    output = fitted.panel.index(gene)

    values = np.full(source.n_obs, np.nan)
    parts = np.full((source.n_obs, n_features), np.nan, dtype=np.float32) if per_feature else None
    errors: dict[str, float] = {}
    differences: dict[str, float] = {}
    inputs = Inputs(list(fitted.features["slots"]), fitted.features["scaling"], None, grid="grid" in network.needs)
    was_training = network.training
    where = resolve_device(device)
    try:
        network.eval().to(where)
        for name in names:
            mask = source.obs[sample_key].astype(str).to_numpy() == name
            rows, on_tissue = np.flatnonzero(mask), tissue[mask]
            arrays = collect(
                data, source, mask, inputs, panel=None, layer=None, sample_key=sample_key, patient_key=None
            )
            if method == "gradcam":
                level = _default_level(network, arrays, where) if level is None else level
                section = _gradcam(network, arrays, output, on_tissue, level, where)
            else:
                detail, differences[name] = _integrated_gradients(
                    network, arrays, output, on_tissue, steps, start, where
                )
                section = detail.sum(axis=1)
                gap = abs(section.sum() - differences[name])
                # Around a mean, contributions cancel: of a difference of about 0 every rounding would be much.
                whole = max(abs(differences[name]), _CANCELED * float(np.abs(section).sum()))
                errors[name] = float(gap / whole) if whole else 0.0
                if parts is not None:
                    parts[rows[on_tissue]] = detail[on_tissue]
            values[rows[on_tissue]] = section[on_tissue]
    finally:
        network.to("cpu").train(was_training)
    incomplete = [name for name, error in errors.items() if error > _INCOMPLETE]
    if incomplete:
        warnings.warn(
            f"integrated gradients miss the difference of outputs by more than {_INCOMPLETE:.0%} in section "
            f"{incomplete[0]!r} ({len(incomplete)} in all); pass more `steps`",
            stacklevel=2,
        )

    container, adata = begin(data, copy, table_key)
    key_added = key_added or f"attribution_{gene}"
    adata.obs[key_added] = values
    if parts is not None:
        adata.obsm[f"{key_added}_features"] = parts
    record: dict[str, Any] = {"gene": gene, "model": fitted.model, "method": method, "samples": names, "level": level}
    if method == "integrated_gradients":
        record |= {
            "steps": steps,
            "baseline": baseline if isinstance(baseline, str) else "given",
            "difference": differences,
            "completeness_error": errors,
        }
    _provenance.write(adata, key_added, record)
    return container if copy else None


def _check_network(network: Predictor, name: str, method: str) -> None:
    if "features" not in network.needs or network.unit == "bag":
        raise ValueError(
            f"expected a network on the features of observations; found {name!r}, which reads "
            f"{', '.join(sorted(network.needs))}"
        )
    if method == "gradcam" and network.unit != "grid":
        raise ValueError(
            f"expected a network on grids for method='gradcam'; found {name!r} of unit {network.unit!r}; "
            "pass method='integrated_gradients'"
        )


def _samples(adata: AnnData, sample: str | Sequence[str] | None, sample_key: str) -> list[str]:
    found = list(dict.fromkeys(adata.obs[sample_key].astype(str)))
    if sample is None:
        return found
    wanted = [sample] if isinstance(sample, str) else [str(name) for name in sample]
    missing = [name for name in wanted if name not in set(found)]
    if missing or not wanted:
        raise KeyError(
            f"expected sections of obs[{sample_key!r}]; found {missing[0] if missing else 'an empty list'!r}; "
            f"choose among {sorted(found)}"
        )
    return wanted


def _check_baseline(baseline: Any, n_features: int) -> Any:
    """`"mean"`, `"zero"`, or an array (d,) float32."""
    if isinstance(baseline, str):
        return check_choice(baseline, ("mean", "zero"), "baseline")
    values = np.asarray(baseline, dtype=np.float32)
    if values.shape != (n_features,) or not np.isfinite(values).all():
        raise ValueError(f"expected a baseline of {n_features} finite features; found shape {values.shape}")
    return values


def _integrated_gradients(
    network: Predictor,
    arrays: ArraySet,
    output: int,
    on_tissue: np.ndarray,
    steps: int,
    baseline: Any,
    device: torch.device,
) -> tuple[np.ndarray, float]:
    """Attribution (n, d) float64 of each feature, and the difference of outputs that it should sum to."""
    import torch

    assert arrays.features is not None
    n = len(arrays)
    result = np.zeros(arrays.features.shape)
    if not on_tissue.any():
        return result, 0.0
    whole = arrays.features
    start = whole[on_tissue].mean(axis=0, dtype=np.float64) if isinstance(baseline, str) else baseline
    start = np.zeros_like(start) if isinstance(baseline, str) and baseline == "zero" else start
    low = torch.as_tensor(np.asarray(start, dtype=np.float32), device=device)
    difference = 0.0
    rows = np.arange(n)
    groups = [rows[i : i + _CHUNK] for i in range(0, n, _CHUNK)] if network.unit == "spot" else [rows]
    for index in groups:
        batch = arrays.batch(index, network.needs).to(device)
        assert batch.features is not None
        high = batch.features
        share = torch.as_tensor(on_tissue[index] / on_tissue.sum(), device=device, dtype=torch.float64)

        def value(features: torch.Tensor, batch: Batch = batch, share: torch.Tensor = share) -> torch.Tensor:
            batch.features = features
            return (network(batch).mean[:, output].double() * share).sum()

        total = torch.zeros_like(high, dtype=torch.float64)
        for step in range(steps):
            # Midpoints: the ends, where the way leaves a plateau of the network, get no weight of their own.
            features = (low + (step + 0.5) / steps * (high - low)).requires_grad_(True)
            (gradient,) = torch.autograd.grad(value(features), features)
            total += gradient
        result[index] = (total / steps * (high - low)).cpu().numpy()
        with torch.no_grad():
            difference += float(value(high) - value(low.expand_as(high)))
    return result, difference


def _gradcam(
    network: Predictor, arrays: ArraySet, output: int, on_tissue: np.ndarray, level: str, device: torch.device
) -> np.ndarray:
    """Grad-CAM (n,) of one section, scaled to 0–1 over its tissue."""
    import torch
    from torch.nn import functional as F

    result = np.zeros(len(arrays))
    if not on_tissue.any():
        return result
    batch, prediction, seen = _watch(network, arrays, device, level)
    activation = seen[level]
    (gradient,) = torch.autograd.grad(
        prediction.mean[torch.as_tensor(on_tissue, device=device), output].mean(), activation, allow_unused=True
    )
    if gradient is None:
        raise ValueError(f"expected a level that the output depends on; found {level!r}, which it does not")
    row, col, shape = _positions(prediction, batch)
    tissue = torch.zeros((1, 1, *shape), device=device)
    tissue[0, 0, row[on_tissue], col[on_tissue]] = 1
    share = F.adaptive_avg_pool2d(tissue, (activation.shape[2], activation.shape[3]))
    weight = (gradient * share).sum(dim=(2, 3), keepdim=True) / share.sum()
    heat = (weight * activation).sum(dim=1, keepdim=True).relu()
    heat = F.interpolate(heat, size=shape, mode="bilinear", align_corners=False)[0, 0]
    values = heat[row, col].detach().double().cpu().numpy()
    low, high = values[on_tissue].min(), values[on_tissue].max()
    return (values - low) / (high - low) if high > low else result


def _default_level(network: Predictor, arrays: ArraySet, device: torch.device) -> str:
    """The last part of the network at its coarsest resolution, other than the output itself."""
    _, _, seen = _watch(network, arrays, device, None)
    inner = {name: value for name, value in seen.items() if value.shape[1] != network.n_genes} or seen
    if not inner:
        raise ValueError("expected a network whose parts return grids; found none; pass method='integrated_gradients'")
    least = min(value.shape[2] * value.shape[3] for value in inner.values())
    at_least = [name for name, value in inner.items() if value.shape[2] * value.shape[3] == least]
    # A block ends together with its last layer: the block is what a reader knows by name.
    last = at_least[-1]
    return min((name for name in at_least if f"{last}.".startswith(f"{name}.")), key=len)


def _watch(
    network: Predictor, arrays: ArraySet, device: torch.device, level: str | None
) -> tuple[Batch, Prediction, dict[str, torch.Tensor]]:
    """Predict one section and keep the grids (1, c, h, w) that a level, or every part, returned, in their order."""
    modules = dict(network.named_modules())
    if level is not None and (level not in modules or level == ""):
        raise KeyError(
            f"expected a level of the network; found {level!r}; choose among {_levels(network, arrays, device)}"
        )
    seen: dict[str, torch.Tensor] = {}
    batch = arrays.batch(np.arange(len(arrays)), network.needs).to(device)
    assert batch.features is not None
    batch.features = batch.features.clone().requires_grad_(True)
    with _hooks({name: part for name, part in modules.items() if name and level in {None, name}}, seen):
        prediction = network(batch)
    if level is not None and level not in seen:
        raise KeyError(
            f"expected a level that returns a grid (1, channels, rows, columns); found {level!r}, which does not; "
            f"choose among {_levels(network, arrays, device)}"
        )
    return batch, prediction, seen


def _levels(network: Predictor, arrays: ArraySet, device: torch.device) -> str:
    """Names of the outermost parts that return grids."""
    names = list(_watch(network, arrays, device, None)[2])
    outer = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    return ", ".join(repr(name) for name in outer) or "none: no part of this network returns a grid"


@contextmanager
def _hooks(modules: dict[str, Any], seen: dict[str, torch.Tensor]) -> Iterator[None]:
    """Record the grids that modules return, and pass copies on, so that later steps in place do not change them."""
    import torch

    def record(name: str) -> Any:
        def hook(module: Any, args: Any, result: Any) -> Any:
            if not isinstance(result, torch.Tensor) or result.ndim != 4:
                return None
            seen.pop(name, None)  # a part that is used twice counts where it was used last
            seen[name] = result
            return result.clone()

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _positions(prediction: Prediction, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    """Row and column of each observation on the padded grid of the network, and its shape."""
    assert batch.cell is not None
    first, last = batch.cell.amin(dim=0), batch.cell.amax(dim=0)
    tissue = prediction.extras.get("tissue")
    if tissue is None:
        shape = (int(last[0]) + 1, int(last[1]) + 1)
        return batch.cell[:, 0], batch.cell[:, 1], shape
    # Networks pad on either side; the first occupied row and column say by how much.
    at = [tissue[0, 0].any(dim=axis).nonzero()[0, 0] for axis in (1, 0)]
    row, col = (batch.cell[:, i] - first[i] + at[i] for i in (0, 1))
    return row, col, (int(tissue.shape[2]), int(tissue.shape[3]))
