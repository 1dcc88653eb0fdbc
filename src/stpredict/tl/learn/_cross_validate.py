"""Fit and predict every fold of a split by patient, and score the out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from stpredict.cohorts import Cohort
from stpredict.core._compact import compact
from stpredict.core._engine import check_client
from stpredict.core._settings import settings
from stpredict.core._validate import check_choice
from stpredict.slots._baselines import Baselines, chosen_baselines
from stpredict.slots._checks import check_patients
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key, check_key, distinct
from stpredict.slots._marks import sections_record, written_marks
from stpredict.slots._score_tables import SHOWN_SCORES
from stpredict.slots._unit import group_keys
from stpredict.tl.judge._distribution import DISTRIBUTION
from stpredict.tl.judge._evaluate import DEFAULT_METRICS, KNOWN_METRICS, evaluate
from stpredict.tl.judge._habits import check_habits
from stpredict.tl.judge._section_facts import check_maps, given_columns
from stpredict.tl.judge._segmentation import segmentation
from stpredict.tl.judge._survival import survival
from stpredict.tl.learn._blocks import checked_within
from stpredict.tl.learn._folds import run_folds
from stpredict.tl.learn._null_genes import NULL, has_null_genes, null_scores
from stpredict.tl.learn._out_of_fold import marks_of, write_out_of_fold
from stpredict.tl.learn._splitters import Splitter, check_folds, make_folds
from stpredict.tl.learn._stored import judged_together, room_on_disk, write_to_sections
from stpredict.tl.learn._task import OWN_COMPARATORS, Task, comparator, make_task
from stpredict.tl.learn.inputs._section_pictures import SectionPictures
from stpredict.tl.learn.inputs._slots import split_features
from stpredict.tl.learn.targets._base import Keys, slots_for
from stpredict.tl.learn.targets._parse import parse_target

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container
    from stpredict.tl.learn.targets._base import TargetSlots
    from stpredict.training import FittedModel

Models: TypeAlias = "str | Sequence[str] | Mapping[str, str | FittedModel | Mapping[str, Any]]"
PERMUTED = "ridge (permuted labels)"
TABLE = "permuted_table"


def cross_validate(
    data: Container | Cohort,
    models: Models = ("mean", "ridge", "mlp"),
    splitter: Splitter = "patient",
    *,
    features: str | Sequence[str] | Mapping[str, Any] | None = None,
    target: Any = None,
    image: Any = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    ceiling: bool = True,
    baselines: Baselines = True,
    habits: Sequence[str] = (),
    given: Sequence[str] = (),
    allow_leakage: bool = False,
    n_jobs: int = 1,
    client: Any = None,
    threads: int = 1,
    device: str | None = None,
    seed: int = 0,
    n_samples: int = 0,
    key_added: str = Key.PREDICTED,
    progress: bool | None = None,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Predict every section with models that never saw its patient, and score the predictions.

    Genes, scalers, penalties and numbers of epochs are chosen inside the training side of each fold; a test fold is
    read once, to be predicted. Unmeasured observations (`NaN`, or `obs["measured"]` false) are predicted, and not
    trained on.

    Parameters
    ----------
    data
        Sections with image features (or images) and normalized expression in `X` (n_obs, n_genes), or what else is to
        be predicted. Of a :class:`stpredict.Cohort` features and targets are read from files, and what is written goes into
        the files of its sections.
    models
        Registered names; or a mapping from a label to a name or a fitted model to start from, or to a mapping with
        `"model"` and any of `"features"`, `"hyperparameters"`, `"training"`.
    splitter
        `"patient"` (leave one patient out), a number of folds (patients grouped), `"section"` (leave one section out;
        leaky, needs `allow_leakage=True`), `"blocks"` (blocks of each section behind a buffer wider than the fields of view
        of all models, see :func:`stpredict.cohorts.spatial_blocks`; every score says `"within section"`), folds, or a
        function from AnnData to folds. Where the rows are genes, `"chromosomes"` (leave one out, which is the default then), or
        a number of groups of chromosomes.
    features, target, image
        Features, target and images as in :func:`stpredict.tl.fit`; a selection of genes runs inside each fold.
    metrics, ceiling, habits, given
        Scores as in :func:`stpredict.tl.evaluate`, for expression and values; `given` names columns of `obs` beyond which, and
        beyond depth, predictions are correlated in every section as `pearson_given`, those of the baselines as well. What `habits`
        add, of expression only, is for comparison with published numbers only.
    baselines
        Names of the comparators, which are tasks like any other: closed-form models (`"mean"`, `"ridge"`), the ridge on
        labels that were shuffled, each gene by itself (`"ridge (permuted labels)"`), the ridge fitted to and compared with counts that were redrawn with
        constant proportions at the real depths (`"ridge (null genes)"`, of expression that was normalized from counts: what
        depth alone gives under this target and score); for each model in `models` that reads a table of genes,
        `"permuted_table"`, fitted with the row of another gene for each (what the table says of genes is what is above it);
        all these for `True`; and, for each model, `"untrained"` and `"permuted"`. With any of them, smoothed predictions are scored as well. None for `False`, and
        for classes and follow-up.
    sample_key, patient_key
        Columns of `obs` with the section and the patient. Where the rows are genes, see :func:`stpredict.pp.as_genes`, neither is
        needed: their chromosomes stand for both, or what else is named as `patient_key`.
    allow_leakage
        Whether to accept folds with a patient on both sides; every score of such a fold is marked `leaky`.
    n_jobs
        Processes that work on folds side by side. The result does not depend on it.
    client
        A `dask.distributed.Client`, or the address of a scheduler, whose workers take the place of processes; see
        the page on clusters. The result does not depend on it.
    threads
        Threads of each fit. Sums are added in another order with another number, so results agree to rounding only.
    device
        `"cpu"`, `"cuda"`, …; `settings.device` when `None`. On an accelerator the folds run one after the other.
    seed
        Random seed for folds, weights, order, dropout, samples and scores.
    n_samples
        Samples per observation of networks that draw some, for scores of distributions.
    key_added
        Prefix of the slots.
    progress
        Whether to show a progress bar; `settings.progress` when `None`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The table of :func:`stpredict.tl.evaluate`, one line per model, section and gene; for classes that of
    :func:`stpredict.tl.segmentation`, for follow-up that of :func:`stpredict.tl.survival`, with a column `model`. Its
    `attrs["keys"]` say which slot is of which label.

    Writes, for each label but the null genes, which are not those of the object (what no store accepts in a key becomes `_`: `"ridge (permuted labels)"` is
    `"ridge_permuted_labels"` there), `obsm["{key_added}_{label}"]` (out-of-fold predictions, float32 (n_obs, n_genes);
    `NaN` where no fold tested or a gene was not selected), `obsm["{key_added}_{label}_std"]` (standard deviations, where
    the model gives them; none of comparators), with `n_samples` `obsm["{key_added}_{label}_samples"]` (n_obs, n_samples,
    n_genes) of networks that draw some, `obs["{key_added}_{label}_leaky"]`, `obs["{key_added}_{label}_fold"]` (-1
    where no fold tested) and `uns["stpredict"]["{key_added}_{label}"]`. Probabilities of classes and risks go where
    :func:`stpredict.tl.predict` puts them, in `"{key_added}_{label}"`.

    Raises
    ------
    KeyError
        When features, normalization, a gene of the panel or a model is missing.
    ValueError
        When there is one patient only, a patient, or a section under another name, is on both sides of a fold without
        `allow_leakage=True`, folds are no masks of this object or overlap, a feature is a measured gene, or a fold has
        fewer than 3 measured training observations.

    Warns
    -----
    UserWarning
        When features have no record, or were changed after it, and marks are `"unknown"`.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> scores = stp.tl.cross_validate(adata, ["ridge"])
    >>> table = stp.tl.summarize(scores)
    """
    import pandas as pd

    from stpredict.core._device import resolve_device

    check_key(key_added)
    check_client(client, n_jobs)
    cohort = data if isinstance(data, Cohort) else None
    if isinstance(data, Cohort):
        image = SectionPictures(data, image)
        sample_key, patient_key, table_key, data = data.sample_key, data.patient_key, data.table_key, data.table()
    adata = get_table(data, table_key)
    sample_key, patient_key = group_keys(adata, sample_key, patient_key)
    keys = Keys(sample_key, patient_key)
    check_patients(adata, sample_key, patient_key)
    for metric in metrics:
        check_choice(metric, KNOWN_METRICS, "metrics")
    _check_samples(n_samples, metrics)
    habits = check_habits(habits)
    request = parse_target(adata, target)
    reader = slots_for(request)
    check_maps(adata, habits=habits, given=given)
    if given_columns(adata, given) is not None and not reader.quantities:
        raise ValueError(
            f"expected no `given=` for a target of {reader.kind.replace('_', '-')}, whose scores are no correlations; found some; "
            "leave it out"
        )
    known = ("mean", "ridge", PERMUTED, NULL, TABLE)
    names = chosen_baselines(baselines if reader.closed_form else False, known)
    asked = _models(models)
    tasks = _tasks(adata, asked, features, [name for name in names if name != NULL], reader)
    null = _null_task(adata, tasks, features, reader) if NULL in names and has_null_genes(adata, request) else None
    folds = make_folds(adata, splitter, seed, keys, tasks)
    folds = checked_within(adata, folds, tasks, keys, allow_leakage=allow_leakage)
    check_folds(adata, folds, patient_key, allow_leakage=allow_leakage)
    slots = {label: f"{key_added}_{name}" for label, name in distinct(tasks).items()}
    with nullcontext() if cohort is None else room_on_disk() as folder:
        results = run_folds(
            data, adata, tasks, folds, request, keys,
            image=image, allow_leakage=allow_leakage, n_jobs=n_jobs, client=client, threads=threads, device=resolve_device(device), seed=seed,
            progress=settings.progress if progress is None else progress, keep_models=reader.kind == "follow_up",
            n_samples=n_samples if reader.kind == "expression" else 0, folder=folder,
        )  # fmt: skip
        written = {}
        for label, task in tasks.items():
            key = slots[label]
            own = [result for result in results if result.label == label]
            record = {
                "label": label,
                "comparator": label not in asked,
                "model": task.info.name,
                "folds": [fold.name for fold in folds],
                **sections_record(adata, sample_key),
                "allow_leakage": allow_leakage,
                "target": reader.kind,
                "normalization": own[0].target.to_dict().get("normalization", {}).get("method"),
                **reader.record(own[0].target),
                "seed": seed,
            }
            if cohort is None:
                write_out_of_fold(adata, key, own, folds, keys, record)
            written[key] = own, record
        if cohort is not None:
            write_to_sections(cohort, written, folds, keys, write_out_of_fold)
            if not reader.quantities:  # judged together: a column or a few of every observation
                data = judged_together(adata, written, folds, keys, write_out_of_fold)
    where: dict[str, Any] = {"patient_key": patient_key, "seed": seed, "table_key": table_key}
    if reader.quantities:
        table = evaluate(
            data if cohort is None else cohort, list(slots.values()), layer=getattr(request, "layer", None), metrics=metrics, ceiling=ceiling,
            baselines=bool(names), habits=habits, given=given, sample_key=sample_key, progress=progress, **where,
        )  # fmt: skip
        if null is not None:
            own = [result for result in results if result.label == next(iter(tasks))]
            plain = [name for name in metrics if name not in DISTRIBUTION]  # of redrawn counts nobody draws samples
            scoring = {
                "metrics": plain,
                "ceiling": ceiling,
                "habits": habits,
                "given": given,
                "sample_key": sample_key,
                "progress": progress,
                **where,
            }
            leaky = written_marks(marks_of(adata, own, folds, keys))
            beside = null_scores(
                adata, null, folds, own, leaky, keys,
                device=resolve_device(device), seed=seed, scoring=scoring, cohort=cohort,
            )  # fmt: skip
            table = pd.concat([table, beside], ignore_index=True)
    else:
        table = _judge(data, slots, request, sample_key, where)
    table.attrs["keys"] = slots
    return compact(table, SHOWN_SCORES, move=False)


def _check_samples(n_samples: int, metrics: Sequence[str]) -> None:
    """Raise before any work where there will be no samples to score, or their number is none."""
    if isinstance(n_samples, bool) or n_samples < 0 or int(n_samples) != n_samples:
        raise ValueError(f"expected n_samples to be a whole number of at least 0; found {n_samples!r}")
    if metrics and set(metrics) <= set(DISTRIBUTION) and not n_samples:
        raise ValueError(f"expected samples for the metrics {', '.join(metrics)}; found n_samples=0; pass n_samples=20")


def _judge(
    data: Container, slots: Mapping[str, str], request: Any, sample_key: str, where: dict[str, Any]
) -> pd.DataFrame:
    """Scores of classes or of follow-up, one part per label."""
    import pandas as pd

    parts = []
    for label, key in slots.items():
        if hasattr(request, "key"):
            last = label == list(slots)[-1]  # the majority comes once, after all models
            part = segmentation(data, request.key, key, sample_key=sample_key, baselines=last, **where)
            part["model"] = part["model"].replace("model", label)
        else:
            part = survival(data, key, time=request.time, event=request.event, group=Key.group(key), **where)
            part["model"] = label
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _models(models: Models) -> dict[str, Any]:
    """What is to be fitted, by label."""
    models = [models] if isinstance(models, str) else models
    listed = models.items() if isinstance(models, Mapping) else ((name, name) for name in models)
    given: dict[str, Any] = {str(label): entry for label, entry in listed}
    if not given:
        raise ValueError("expected at least one model; found none; see stp.models.list_models()")
    return given


def _tasks(
    adata: AnnData, given: Mapping[str, Any], features: Any, baselines: Sequence[str], reader: TargetSlots
) -> dict[str, Task]:
    """Every label with its task; the comparators among them."""
    known = {"model", "features", "hyperparameters", "training"}
    tasks: dict[str, Task] = {}
    for label, entry in given.items():
        spec: dict[str, Any] = dict(entry) if isinstance(entry, Mapping) else {"model": entry}
        if "model" not in spec or not set(spec) <= known:
            raise TypeError(f"expected model {label!r} as a name or a mapping with {sorted(known)}; found {entry!r}")
        # What an entry does not say of its features is that of the call.
        (slot, scaling), defaults = split_features(spec.pop("features", None)), split_features(features)
        slot, scaling = defaults[0] if slot is None else slot, scaling or defaults[1]
        if "device" in spec.get("training", {}):
            raise TypeError(f"expected the device of all models as `device=`; found one in the training of {label!r}")
        tasks[label] = make_task(adata, spec.pop("model"), reader, features=slot, scaling=scaling, **spec)
    return tasks | _comparators(adata, tasks, features, baselines, reader)


def _comparators(
    adata: AnnData, tasks: dict[str, Task], features: Any, names: Sequence[str], reader: TargetSlots
) -> dict[str, Task]:
    """Comparators by label, those left out that are among the models or have nothing to read."""
    slot, scaling = split_features(features)
    reads = any(task.slots for task in tasks.values()) or slot is not None
    found: dict[str, Task] = {}
    for name in names:
        if name in OWN_COMPARATORS:
            for label, task in tasks.items():
                if made := comparator(adata, name, task):
                    found[f"{label} ({name.replace('_', ' ')})"] = made
        elif name == PERMUTED or name not in tasks:
            kind = "ridge" if name == PERMUTED else name
            if kind != "mean" and not reads:
                continue
            made = make_task(adata, kind, reader, features=slot, scaling=scaling)
            if not made.info.cls.closed_form:
                raise ValueError(
                    f"expected baselines in closed form (mean, ridge) or among {', '.join(OWN_COMPARATORS)}; found "
                    f"{name}; put it into `models`"
                )
            found[name] = replace(made, variant="permuted") if name == PERMUTED else made
    return found


def _null_task(adata: AnnData, tasks: Mapping[str, Task], features: Any, reader: TargetSlots) -> Task | None:
    """The ridge of the null genes, where there are features for it to read."""
    if "ridge" in tasks and tasks["ridge"].info.name == "ridge":
        return tasks["ridge"]
    slot, scaling = split_features(features)
    reads = any(task.slots for task in tasks.values()) or slot is not None
    return make_task(adata, "ridge", reader, features=slot, scaling=scaling) if reads else None
