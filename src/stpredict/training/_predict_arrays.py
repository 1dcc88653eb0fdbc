"""Predict arrays with a network: the part of prediction that knows no container."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

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

    Returns
    -------
    Mean, standard deviation and samples.

    Raises
    ------
    ValueError
        When samples are asked of a network that draws none.
    TypeError
        When genes are asked of a network that predicts those of its training only.
    """
    device = device or torch.device("cpu")
    network.eval().to(device)
    data = data.unmeasured()
    generator = torch.Generator(device=device).manual_seed(seed)
    found: dict[str, np.ndarray] = {}

    n_wanted = network.n_wanted if genes is None else None

    def keep(name: str, values: torch.Tensor, index: np.ndarray) -> None:
        array = values[..., :n_wanted].float().cpu().numpy()
        if name not in found:
            found[name] = np.empty((len(data), *array.shape[1:]), dtype=np.float32)
        found[name][index] = array

    if not len(data):
        raise ValueError("expected at least one row to predict; found none")
    groups: Any = prediction_groups(network, data, batch_size)
    if progress and len(groups) > 1:
        from tqdm.auto import tqdm

        groups = tqdm(groups, desc="predict", unit="batch")
    try:
        with torch.inference_mode():
            for index in groups:
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
                keep("mean", prediction.mean, index)
                if prediction.std is not None:
                    keep("std", prediction.std, index)
                elif samples is not None and samples.shape[1] > 1:
                    keep("std", samples.std(dim=1), index)
                if n_samples and samples is not None:
                    if len(quantiles):
                        found_here = sample_quantiles(samples.float().cpu().numpy(), quantiles)
                        keep("quantiles", torch.from_numpy(found_here), index)
                    if take_samples is None:
                        keep("samples", samples, index)
                    else:
                        take_samples(index, samples[..., :n_wanted].float().cpu().numpy())
    finally:
        network.to("cpu")
    return Predicted(found["mean"], found.get("std"), found.get("samples"), found.get("quantiles"))
