"""Predict arrays with a network: the part of prediction that knows no container."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from stpredict.core._engine import Call, Parcel, divided, on_workers
from stpredict.metrics import sample_quantiles
from stpredict.models import Panel, Prediction, Predictor
from stpredict.training._data import ArraySet
from stpredict.training._fit_arrays import prediction_groups


@dataclass
class Predicted:
    """What :func:`stpredict.training.predict_arrays` returns.

    Attributes
    ----------
    mean
        (n, n_outputs) float32; of outputs that are wanted, without auxiliary ones.
    std
        (n, n_outputs) float32 standard deviation, where the network gives one or draws samples; else `None`.
    samples
        (n, n_samples, n_outputs) float32, where samples were asked for and not handed on; else `None`.
    quantiles
        (n, n_quantiles, n_outputs) float32 of the samples, where these were asked for.
    """

    mean: np.ndarray
    std: np.ndarray | None = None
    samples: np.ndarray | None = None
    quantiles: np.ndarray | None = None


def predict_arrays(
    network: Predictor,
    data: ArraySet,
    *,
    batch_size: int | None = None,
    device: torch.device | None = None,
    progress: bool = False,
    n_samples: int = 0,
    seed: int = 0,
    genes: Panel | None = None,
    quantiles: Sequence[float] = (),
    take_samples: Callable[[np.ndarray, np.ndarray], Any] | None = None,
    client: Any = None,
) -> Predicted:
    """Predict every row.

    Parameters
    ----------
    network
        Trained network; it is put into evaluation mode and left on the CPU.
    data
        Rows to predict; nothing that was measured is read.
    batch_size
        Rows, or sections, per step; it changes memory and speed only, the samples of networks that draw some aside.
    device
        Device to predict on; the CPU when `None`.
    progress
        Whether to show a progress bar.
    n_samples
        Samples per row of networks that draw samples.
    seed
        Random seed for the samples.
    genes
        Genes to predict through their tables, for networks that can predict others than those they were trained on.
    quantiles
        Levels of the quantiles of the samples, where samples are asked for.
    take_samples
        Called with the rows and the samples of each step, which are then not kept.
    client
        A `dask.distributed.Client`, whose workers take some steps each; without samples.

    Returns
    -------
    Mean, standard deviation and samples.

    Raises
    ------
    ValueError
        When samples are asked of a network that draws none, or of the workers of a client.
    TypeError
        When genes are asked of a network that predicts those of its training only.
    """
    data = data.unmeasured()
    if not len(data):
        raise ValueError("expected at least one row to predict; found none")
    if n_samples and client is not None:
        raise ValueError(
            f"expected no samples with a client, as each is drawn after the one before; found n_samples={n_samples}; leave one out"
        )
    groups = prediction_groups(network, data, batch_size)
    device = device or torch.device("cpu")
    found: dict[str, np.ndarray] = {}

    def keep(rows: np.ndarray, values: dict[str, np.ndarray]) -> None:
        samples = values.pop("samples", None)
        if samples is not None and take_samples is not None:
            take_samples(rows, samples)
        elif samples is not None:
            values["samples"] = samples
        for name, array in values.items():
            if name not in found:
                found[name] = np.empty((len(data), *array.shape[1:]), dtype=np.float32)
            found[name][rows] = array

    with tqdm(total=len(groups), desc="predict", unit="batch", disable=not progress or len(groups) == 1) as bar:
        if client is None or len(groups) == 1:
            for rows, values in _steps(network, data, groups, device, genes, n_samples, seed, quantiles):
                keep(rows, values)
                bar.update()
        else:
            parts = divided(client, len(groups))
            calls = _calls(network, data, [groups[part] for part in parts], device, genes)
            for part, values in zip(parts, on_workers(client, calls), strict=True):
                keep(np.concatenate(groups[part]), values)
                bar.update(part.stop - part.start)
    return Predicted(found["mean"], found.get("std"), found.get("samples"), found.get("quantiles"))


def _steps(
    network: Predictor,
    data: ArraySet,
    groups: Sequence[np.ndarray],
    device: torch.device,
    genes: Panel | None,
    n_samples: int = 0,
    seed: int = 0,
    quantiles: Sequence[float] = (),
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Rows of each step with what is predicted of them, by name."""
    network.eval().to(device)
    generator = torch.Generator(device=device).manual_seed(seed)
    n_wanted = network.n_wanted if genes is None else None

    def plain(values: torch.Tensor) -> np.ndarray:
        return values[..., :n_wanted].float().cpu().numpy()

    try:
        for index in groups:
            with torch.inference_mode():
                batch = data.batch(index, network.needs).to(device)
                prediction: Prediction
                if genes is not None:
                    prediction = network.decode(network.encode(batch), genes)
                else:
                    prediction = network.in_unit(network.predict(batch, n_samples=n_samples, generator=generator))
                samples = prediction.samples
                if n_samples and samples is None:
                    raise ValueError(
                        f"expected a network that draws samples for n_samples={n_samples}; found "
                        f"{type(network).__name__}, which draws none; predict without n_samples"
                    )
                found = {"mean": plain(prediction.mean)}
                if prediction.std is not None:
                    found["std"] = plain(prediction.std)
                elif samples is not None and samples.shape[1] > 1:
                    found["std"] = plain(samples.std(dim=1))
                if n_samples and samples is not None:
                    if len(quantiles):
                        levels = sample_quantiles(samples.float().cpu().numpy(), quantiles)
                        found["quantiles"] = levels[..., :n_wanted]
                    found["samples"] = plain(samples)
            yield index, found
    finally:
        network.to("cpu")


def _calls(
    network: Predictor,
    data: ArraySet,
    parts: Sequence[Sequence[np.ndarray]],
    device: torch.device,
    genes: Panel | None,
) -> Iterator[Call]:
    """The steps of each part, with its rows only, as a call for a worker: the same rows are together as they are here."""
    data = replace(data, identity=np.arange(len(data)) if data.identity is None else data.identity)
    parcel = Parcel((network, genes))
    for groups in parts:
        ends = np.cumsum([len(index) for index in groups])
        own = [np.arange(end - len(index), end) for index, end in zip(groups, ends, strict=True)]
        rows = data.take(np.concatenate(groups)).read_rows()
        yield _part, {"parcel": parcel, "data": rows, "groups": own, "device": str(device)}


def _part(parcel: Parcel, data: ArraySet, groups: Sequence[np.ndarray], device: str) -> dict[str, np.ndarray]:
    """What is predicted of all rows of a part, in their order."""
    network, genes = parcel.open()
    steps = [values for _, values in _steps(network, data, groups, torch.device(device), genes)]
    return {name: np.concatenate([values[name] for values in steps]) for name in steps[0]}
