"""A checkpoint belongs to one fit: whatever differs between two fits, they share no folder."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from stpredict.models import INPUTS, Panel, build
from stpredict.training import ArraySet, TrainConfig, WholeSections, train_config
from stpredict.training._fit_arrays import _digest
from stpredict.training.targets import ClassTarget, ExpressionTarget, FollowUpTarget

N, M, GENES = 6, 9, 3
CONFIG = train_config("mlp")


def everything() -> ArraySet:
    """A set in which nothing is left out."""
    rng = np.random.default_rng(0)
    rows = {
        "features": rng.normal(size=(N, 4)).astype(np.float32),
        "patches": rng.integers(0, 255, (N, 8, 8, 3), dtype=np.uint8),
        "positions": rng.normal(size=(N, 2)).astype(np.float32),
        "cell": np.stack(np.divmod(np.arange(N), 3), axis=1),
        "tokens": rng.normal(size=(N, 5, 2)).astype(np.float32),
        "token_size": rng.integers(0, 3, (N, 5)).astype(np.float32),
        "neighbors": rng.normal(size=(N, 3, 4)).astype(np.float32),
        "neighbor_mask": rng.uniform(size=(N, 3)) < 0.5,
        "edges": rng.normal(size=(N, 3, 4)).astype(np.float32),
        "nuclei": rng.normal(size=(N, 3, 4)).astype(np.float32),
        "boundary_mask": rng.uniform(size=(N, 3)) < 0.5,
        "nuclei_graph": rng.normal(size=(N, 4)).astype(np.float32),
        "n_nuclei": rng.integers(0, 3, N),
        "nuclei_links": rng.integers(0, 3, (N, 2)),
        "n_links": rng.integers(0, 3, N),
        "sequence": rng.integers(0, 5, (N, 6)).astype(np.uint8),
        "sequence_mask": rng.integers(-1, 2, (N, 6)).astype(np.int8),
        "signals": rng.uniform(size=(N, 6, 2)).astype(np.float32),
        "sequence_features": rng.normal(size=(N, 3, 4)).astype(np.float32),
        "gene_features": rng.normal(size=(N, 4)).astype(np.float32),
        "prompt_ids": rng.integers(-1, 9, (N, 4)),
        "counts": rng.poisson(2, (N, GENES)).astype(np.float32),
        "size_factor": rng.uniform(0.5, 2, N).astype(np.float32),
    }
    whole = {
        "section_features": rng.normal(size=(M, 4)).astype(np.float32),
        "section_positions": rng.normal(size=(M, 2)).astype(np.float32),
        "section_cell": np.stack(np.divmod(np.arange(M), 3), axis=1),
    }
    return ArraySet(
        section=np.arange(N) // 2,
        patient=np.arange(N) // 4,
        inputs=rows,
        target=rng.normal(size=(N, GENES)).astype(np.float32),
        kind=ExpressionTarget(("a", "b", "c"), {"method": "log1p"}),
        labeled=np.arange(N) != 2,
        whole=WholeSections(np.arange(M) // 3, np.arange(N), whole),
        genes=Panel(("a", "b", "c"), {"gene_table": rng.normal(size=(GENES, 4)).astype(np.float32)}),
        n_primary=2,
        identity=np.arange(N) * 10,
    )


def altered(values: np.ndarray) -> np.ndarray:
    """The same array with another last value."""
    values = values.copy()
    values.flat[-1] = not values.flat[-1] if values.dtype == bool else values.flat[-1] + 1
    return values


def with_input(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[ArraySet], ArraySet]:
    def apply(data: ArraySet) -> ArraySet:
        if INPUTS[name].axis == "row":
            return replace(data, inputs=data.inputs | {name: change(data.inputs[name])})
        if INPUTS[name].axis == "section":
            inputs = data.whole.inputs | {name: change(data.whole.inputs[name])}
            return replace(data, whole=replace(data.whole, inputs=inputs))
        return replace(data, genes=replace(data.genes, tables={name: change(data.genes.tables[name])}))

    return apply


def without_input(data: ArraySet, name: str) -> ArraySet:
    data = deepcopy(data)
    del (
        {"row": data.inputs, "section": data.whole.inputs, "gene": data.genes.tables}[INPUTS[name].axis]
    )[name]  # fmt: skip
    return data


def renamed(data: ArraySet) -> ArraySet:
    return replace(data, genes=replace(data.genes, names=("a", "b", "d")))


NORMALIZATION = {"method": "log1p"}
FIELDS: dict[str, list[Callable[[ArraySet], ArraySet]]] = {
    "section": [lambda d: replace(d, section=altered(d.section))],
    "reach_um": [lambda d: replace(d, reach_um=123.0)],
    "patient": [lambda d: replace(d, patient=altered(d.patient))],
    "inputs": [with_input(name, altered) for name in INPUTS],
    "target": [lambda d: replace(d, target=altered(d.target)), lambda d: replace(d, target=None)],
    "kind": [
        lambda d: replace(d, kind=None),
        lambda d: replace(d, kind=ExpressionTarget(("a", "b", "d"), NORMALIZATION)),
        lambda d: replace(d, kind=ExpressionTarget(("a", "c", "b"), NORMALIZATION)),
        lambda d: replace(d, kind=ExpressionTarget(("a", "b", "c"), {"method": "layer", "layer": "x"})),
        lambda d: replace(d, kind=ClassTarget("k", ("a", "b", "c"))),
        lambda d: replace(d, kind=ClassTarget("other", ("a", "b", "c"))),
        lambda d: replace(d, kind=ClassTarget("k", ("x", "c"))),
        lambda d: replace(d, kind=ClassTarget("k", ("y", "c"))),
        lambda d: replace(d, kind=FollowUpTarget("time", "event")),
        lambda d: replace(d, kind=FollowUpTarget("time", "death")),
        lambda d: replace(d, kind=FollowUpTarget("days", "event")),
    ],
    "labeled": [lambda d: replace(d, labeled=altered(d.labeled)), lambda d: replace(d, labeled=None)],
    "unit": [lambda d: replace(d, unit="slide")],
    "whole": [
        lambda d: replace(d, whole=None),
        lambda d: replace(d, whole=replace(d.whole, code=altered(d.whole.code))),
        lambda d: replace(d, whole=replace(d.whole, row=altered(d.whole.row))),
    ],
    "genes": [lambda d: replace(d, genes=Panel()), renamed],
    "identity": [lambda d: replace(d, identity=altered(d.identity)), lambda d: replace(d, identity=None)],
    "n_primary": [lambda d: replace(d, n_primary=1), lambda d: replace(d, n_primary=None)],
}
CHANGES = [(f"{name} {i}", change) for name, changes in FIELDS.items() for i, change in enumerate(changes)]


def digest(data: ArraySet, model: str = "mlp", **changes: Any) -> str:
    rest = {"options": {}, "config": CONFIG, "seed": 0, "init": None} | changes
    return _digest(model, rest["options"], rest["config"], rest["seed"], data, rest["init"])


def test_nothing_is_left_out_of_these_tests() -> None:
    data = everything()
    assert FIELDS.keys() == {f.name for f in fields(ArraySet)}
    assert data.inputs.keys() | data.whole.inputs.keys() | data.genes.tables.keys() == INPUTS.keys()
    assert not any(getattr(data, f.name) is None for f in fields(ArraySet))


def test_equal_sets_share_a_digest() -> None:
    assert digest(everything()) == digest(deepcopy(everything())) == digest(everything())
    backwards = dict(reversed(everything().inputs.items()))
    assert digest(replace(everything(), inputs=backwards)) == digest(everything())


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in CHANGES])
def test_any_field_changes_the_digest(change: Callable[[ArraySet], ArraySet]) -> None:
    assert digest(change(everything())) != digest(everything())


def test_no_two_changes_share_a_digest() -> None:
    digests = [digest(change(everything())) for _, change in CHANGES]
    assert len({*digests, digest(everything())}) == len(CHANGES) + 1


@pytest.mark.parametrize("name", INPUTS)
def test_any_input_changes_the_digest(name: str) -> None:
    data = everything()
    first = with_input(name, lambda values: np.concatenate([altered(values[:1]), values[1:]]))(data)
    order = with_input(name, lambda values: values[::-1])(data)
    wider = with_input(name, lambda values: values.astype(np.float64))(data)
    shape = with_input(name, lambda values: values[..., None])(data)
    digests = [digest(part) for part in (data, first, order, wider, shape, without_input(data, name))]
    assert len(set(digests)) == 6


def test_an_input_under_another_name_is_another() -> None:
    """Values say nothing of what they are."""
    data = everything()
    positions = data["positions"]
    rows = {name: replace(data, inputs={name: positions}) for name in ("positions", "features", "size_factor")}
    whole = replace(data, inputs={}, whole=WholeSections(data.section, np.arange(N), {"section_features": positions}))
    other = replace(data, inputs={}, whole=WholeSections(data.section, np.arange(N), {"section_positions": positions}))
    assert len({digest(part) for part in (*rows.values(), whole, other)}) == 5


def test_rows_taken_are_part_of_it() -> None:
    data = everything()
    parts = [data.take(np.array(rows)) for rows in ([0, 1, 2], [0, 2, 1], [0, 1, 3])]
    assert len({digest(part) for part in (data, *parts)}) == 4
    assert digest(data.take(np.arange(N))) == digest(data)


def test_row_sources_count_by_what_they_hold() -> None:
    class Source:
        def __init__(self, values: np.ndarray) -> None:
            self.values = values

        def __getitem__(self, index: Any) -> np.ndarray:
            return self.values[index]

        def __len__(self) -> int:
            return len(self.values)

    data = everything()
    same, other = (
        replace(data, inputs=data.inputs | {"patches": Source(values)})
        for values in (data["patches"], altered(data["patches"]))
    )
    assert digest(same) == digest(data)
    assert digest(other) != digest(data)
    assert digest(same.take(np.array([0, 1]))) != digest(same.take(np.array([0, 2])))


OTHER_SETTINGS = {
    "max_epochs": 7, "batch_size": 7, "optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.5, "momentum": 0.5,
    "schedule": "cosine", "final_learning_rate": 1e-3, "step_epochs": 7, "step_factor": 0.5, "patience": 7, "min_delta": 0.5, "validation_fraction": 0.5, "monitor": "correlation",
    "loss_tolerance": 0.25, "refit": False, "gradient_clip": 0.5, "precision": "32-true", "device": "cpu",
    "auxiliary": "all", "devices": 2, "strategy": "ddp", "num_nodes": 2, "num_workers": 2,
}  # fmt: skip
#: Where a fit runs; how many processes draw is another thing.
OF_MACHINES = ("device", "strategy", "num_workers")
#: What means something with auxiliary genes alone, and is no setting without them.
WITH_AUXILIARY = {
    "n_primary": 3, "primary": ["g1"], "gene_loss": "pearson", "mask_temperature": 0.5, "cut_start": 0.25,
    "cut_learning_rate": 0.5, "cut_pairs": 3, "cut_steps": 3, "cut_gradient": "unrolled",
}  # fmt: skip


@pytest.mark.parametrize("name", [f.name for f in fields(TrainConfig)])
def test_any_setting_changes_the_digest_but_those_of_machines(name: str) -> None:
    config = CONFIG.updated({"auxiliary": "dkgsb"}) if name in WITH_AUXILIARY else CONFIG
    changed = config.updated({name: (OTHER_SETTINGS | WITH_AUXILIARY)[name]})
    assert changed != config
    assert (digest(everything(), config=changed) == digest(everything(), config=config)) == (name in OF_MACHINES)


def test_network_hyperparameters_seed_and_start_change_the_digest() -> None:
    data = everything()
    starts = [build("mlp", GENES, {"features": 4}, seed=seed) for seed in (0, 1)]
    digests = [
        digest(data),
        digest(data, model="stnet"),
        digest(data, options={"hidden": 8}),
        digest(data, options={"hidden": 9}),
        digest(data, seed=1),
        *(digest(data, init=start) for start in starts),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(data, init=starts[0]) == digest(data, init=build("mlp", GENES, {"features": 4}, seed=0))
