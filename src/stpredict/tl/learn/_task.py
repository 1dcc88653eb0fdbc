"""One thing to be fitted: a network with its inputs and settings, or a comparator of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._moments import column_moments
from stpredict.slots._features import feature_matrix
from stpredict.slots._stain import STAIN
from stpredict.slots._unit import unit_of
from stpredict.tl.learn.inputs._collect import MIN_OBSERVATIONS, with_lattice
from stpredict.tl.learn.inputs._gene_table import NAME as GENE_TABLE
from stpredict.tl.learn.inputs._gene_table import describe_table, how_made
from stpredict.tl.learn.inputs._nuclei_graph import NAME as NUCLEI_GRAPH
from stpredict.tl.learn.inputs._nuclei_graph import with_nuclei
from stpredict.tl.learn.inputs._origin import features_seen
from stpredict.tl.learn.inputs._reader import Scaling, Source
from stpredict.tl.learn.inputs._slots import FROM_SLOTS, check_features, describe_features, feature_keys, slots_read

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

    from stpredict.models import ModelInfo
    from stpredict.tl.learn.targets._base import TargetSlots
    from stpredict.training import ArraySet, FittedModel, TrainConfig, TrainingFacts
    from stpredict.training.targets import Target

#: The network itself, without something to learn from.
OWN_COMPARATORS = ("untrained", "permuted", "permuted_table")
Variant = Literal["fit", "untrained", "permuted", "permuted_table"]


@dataclass(frozen=True)
class Task:
    """A network to fit and how.

    Attributes
    ----------
    info
        The network.
    options
        Departures from its default hyperparameters.
    config
        Training settings.
    slots, scaling
        Slots of image features and how these are scaled.
    described
        Provenance of the features.
    variant
        `"fit"`; `"permuted"`: on labels that were shuffled, in closed form each output for itself; `"permuted_table"`: with
        the rows of its table of genes given to other genes; `"untrained"`: as it is drawn.
    init
        Model to start from.
    feature_patients
        Patients whose expression had a part in the features; `"unknown"` where nobody wrote down how they were made.
    table_made
        How the table of genes was made.
    """

    info: ModelInfo
    options: dict[str, Any]
    config: TrainConfig
    slots: list[str] = field(default_factory=list)
    scaling: Scaling = "global"
    described: dict[str, Any] = field(default_factory=dict)
    variant: Variant = "fit"
    init: FittedModel | None = None
    feature_patients: list[str] = field(default_factory=list)
    table_made: dict[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> frozenset[str]:
        """Inputs that the network reads."""
        return self.info.reads(self.options)

    @property
    def gene_table(self) -> str | None:
        """Name of the table of genes that the network reads, if it reads one."""
        return self.info.configure(self.options).gene_table if GENE_TABLE in self.needs else None

    def source(self, **others: Any) -> Source:
        """Where its inputs are read from; what does not follow from the task is passed."""
        return Source(config=self.info.configure(self.options), slots=self.slots, scaling=self.scaling, **others)


def make_task(
    adata: AnnData,
    model: str | FittedModel | Path,
    reader: TargetSlots,
    *,
    features: str | Sequence[str] | None = None,
    scaling: Scaling | None = None,
    hyperparameters: Any = None,
    training: Mapping[str, Any] | None = None,
) -> Task:
    """Check what was asked for against an object and the registry, before anything is read.

    Raises
    ------
    KeyError
        When there is no such model, or its features are missing.
    TypeError
        For unknown hyperparameters or training settings.
    ValueError
        When settings do not fit each other, the features are others than those of the model to start from, or the target
        is none for a network in closed form.
    """
    from stpredict.models import get_model
    from stpredict.training import FittedModel, train_config
    from stpredict.training._auxiliary import check_weighs_genes

    start = FittedModel.load(model) if isinstance(model, Path) else model if isinstance(model, FittedModel) else None
    info = get_model(model if isinstance(model, str) else start.model)  # type: ignore[union-attr]
    given = info.options(hyperparameters)
    if start is not None:
        features = list(start.features["slots"]) or None if features is None else features
        scaling = start.features["scaling"] if scaling is None else scaling
        given = {name: getattr(start.network.config, name) for name in info.config.__dataclass_fields__} | given
    if info.cls.closed_form and not reader.closed_form:
        raise ValueError(
            f"expected a network that is trained in steps for this target; found {info.name!r}; take one of "
            "stp.models.list_models(), or, for numbers (scores, fractions, proteins), target=stp.targets.Values(…)"
        )
    compared = reader.of_genes or (info.cls.compares_values and reader.quantities)
    if info.cls.only_expression and not compared:
        raise ValueError(
            f"expected genes as the target of {info.name!r}, which compares the expression of spots with their pictures; found "
            f"{reader.kind.replace('_', '-')}; take another of stp.models.list_models()"
        )
    options = without_counts(info, with_nuclei(adata, info, with_lattice(adata, info, given)), hyperparameters, reader)
    needs = info.reads(options)
    scaling = scaling or _default_scaling(adata, needs)
    if "tokens" in needs and scaling != "global":
        raise ValueError(
            f"expected features with scaling='global' for networks on bags; found {scaling!r}; what tells slides apart "
            "would be standardized away"
        )
    config = train_config(info.name, training, reader, hyperparameters)
    check_weighs_genes(info, config, reader.of_genes)
    slots = feature_keys(adata, features, bag="tokens" in needs) if needs & FROM_SLOTS else []
    if start is not None and slots:
        known = list(start.features["slots"]), start.features["scaling"]
        if known != (slots, scaling):
            raise ValueError(
                f"expected the features of the model to start from, {', '.join(known[0])} with scaling={known[1]!r}; found "
                f"{', '.join(slots)} with scaling={scaling!r}; leave `features=` out"
            )
        check_features(adata, start.features)
    described = describe_features(adata, slots, scaling, pixels="patches" in needs)
    if options.get("kinds") == "slots":
        options = options | {"kinds": tuple(entry["dim"] for entry in described["slots"].values())}
    origin = _origin(adata, slots_read(needs, slots), described.get(STAIN))
    task = Task(info, options, config, slots, scaling, described, init=start, feature_patients=origin)
    return replace(task, table_made=how_made(adata, task.gene_table))


def _default_scaling(adata: AnnData, needs: frozenset[str]) -> Scaling:
    """How features are scaled where nobody says: within sections, but slides and genes, which are compared with each other."""
    compared = "tokens" in needs or unit_of(adata) != "observation"
    return "section" if needs & (FROM_SLOTS | {NUCLEI_GRAPH}) and not compared else "global"


def without_counts(info: ModelInfo, options: dict[str, Any], asked: Any, reader: TargetSlots) -> dict[str, Any]:
    """Hyperparameters without the likelihood of counts, where the target is none of genes; an error where it was asked for."""
    if reader.of_genes or not hasattr(info.config(), "zinb"):
        return options
    if isinstance(asked, Mapping) and asked.get("zinb"):
        raise ValueError(
            f"expected zinb=0 for a target that is no expression, which has no counts; found {asked['zinb']!r}; leave it out"
        )
    return options | {"zinb": 0.0}


def comparator(adata: AnnData, name: str, main: Task, *, features: str | Sequence[str] | None = None) -> Task | None:
    """The task of a comparator beside a network; `None` where it would not differ from it, or has nothing to read.

    Raises
    ------
    ValueError
        When it is neither in closed form nor one of the network itself.
    """
    from stpredict.models import get_model
    from stpredict.training import train_config

    if name in OWN_COMPARATORS:
        if name == "permuted_table" and main.gene_table is None:
            return None
        closed = main.info.cls.closed_form
        return None if closed and name == "untrained" else replace(main, variant=name)  # type: ignore[arg-type]
    info = get_model(name)
    if not info.cls.closed_form:
        raise ValueError(
            f"expected baselines in closed form (mean, ridge) or among {', '.join(OWN_COMPARATORS)}; found {name}; fit "
            "it on its own, or compare it with stp.tl.cross_validate"
        )
    if name == main.info.name:
        return None
    slots: list[str] = []
    if "features" in info.reads():
        slots = main.slots or ([] if features is None else feature_keys(adata, features))
        if not slots or feature_matrix(adata, slots[0]) is None:
            return None  # a network on pixels and no features named, or bags without their mean
    scaling = main.scaling if main.slots else _default_scaling(adata, info.reads())
    origin = _origin(adata, slots)
    return Task(
        info, {}, train_config(name), slots, scaling, describe_features(adata, slots, scaling), feature_patients=origin
    )


def _origin(adata: AnnData, slots: Sequence[str], stain: Mapping[str, Any] | None = None) -> list[str]:
    """Patients who had a part in features, or in the stains of pixels."""
    return sorted({*features_seen(adata, slots), *(stain or {}).get("patients", [])})


def fit_task(
    task: Task,
    arrays: ArraySet,
    target: Target,
    facts: TrainingFacts,
    *,
    device: torch.device,
    seed: int,
    checkpoint_dir: str | Path | None = None,
    progress: bool = False,
) -> FittedModel:
    """Fit a task on training rows with their target."""
    from stpredict.training import FittedModel, fit_arrays, predict_arrays, untrained

    wanted = arrays.only_primary()
    if task.config.auxiliary is None or task.variant == "untrained":  # beside one that trains on auxiliary genes
        arrays = wanted
    if task.variant == "untrained":
        result = untrained(task.info.name, arrays, hyperparameters=task.options, seed=seed)
    else:
        # What fits each output on its own is no other for rows that do not stay whole.
        variants: dict[str, Callable[[int], ArraySet]] = {
            "permuted": partial(arrays.permuted, by_output=task.info.cls.closed_form),
            "permuted_table": arrays.with_permuted_tables,
        }
        given = variants.get(task.variant)
        result = fit_arrays(
            task.info.name,
            arrays if given is None else given(seed),
            hyperparameters=task.options,
            config=task.config,
            device=device,
            seed=seed,
            init=None if task.init is None else task.init.network,
            checkpoint_dir=None if checkpoint_dir is None else Path(checkpoint_dir),
            progress=progress,
        )
    facts = replace(facts, settings=task.config.to_dict(), validated_on=result.validated_on, n_epochs=result.n_epochs)
    facts = replace(facts, auxiliary=result.auxiliary)
    facts = replace(facts, feature_patients=task.feature_patients, extra={**facts.extra, **result.network.facts()})
    if task.gene_table is None:
        facts = replace(facts, table_patients=[])
    elif task.variant == "fit":
        known = describe_table(arrays.genes.names, arrays.genes.tables[GENE_TABLE], task.table_made)
        facts = replace(facts, extra=facts.extra | {GENE_TABLE: known})
    if task.init is not None and task.variant != "untrained":
        before = task.init.training
        facts = replace(facts, pretraining_patients=before.patients_seen, content=[*facts.content, *before.content])
    if "patches" in task.needs:
        config = task.info.configure(task.options)
        facts = replace(facts, patch=[config.patch_um, config.patch_px], padded_patches=_padded(arrays))
    if target.whole:  # a risk has no unit: it is told relative to the training set
        outputs = predict_arrays(result.network, arrays, device=device).mean[:, 0]
        facts = replace(facts, mean={"model": float(outputs.mean())}, median={"model": float(np.median(outputs))})
    if target.quantities and target.kind != "counts":  # which come with their depths, and vary with them
        facts = replace(facts, spread=_spread(wanted))
    empty: dict[str, Any] = {name: value for name, value in task.described.items() if name == STAIN}
    empty |= {"slots": {}, "scaling": task.scaling}
    return FittedModel(
        model=task.info.name,
        network=result.network,
        target=target,
        features=task.described if task.slots and task.needs & FROM_SLOTS else empty,
        training=facts,
        history=result.history,
    )


def _spread(arrays: ArraySet) -> list[float] | None:
    """Standard deviation of every output between patients, or sections of the one patient; `None` with one section."""
    values = arrays.target
    assert values is not None
    rows = np.ones(len(values), dtype=bool) if arrays.labeled is None else arrays.labeled
    for group in (arrays.patient, arrays.section):
        if len(names := np.unique(group[rows])) > 1:
            means = [column_moments(values, np.flatnonzero(rows & (group == name)))[0] for name in names]
            return [float(f"{value:.4g}") for value in np.std(means, axis=0, ddof=1)]
    return None


def _padded(arrays: ArraySet) -> dict[str, int] | None:
    patches = arrays.inputs.get("patches")
    return getattr(getattr(patches, "source", patches), "padded", None)


def check_enough(rows: np.ndarray, what: str) -> None:
    """Raise where a mask (n_obs,) leaves too few observations to train on."""
    if rows.sum() < MIN_OBSERVATIONS:
        raise ValueError(f"expected at least {MIN_OBSERVATIONS} {what}; found {int(rows.sum())}")
