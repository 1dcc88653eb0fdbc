"""What users may pass as `target=`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._prediction import prediction_frame
from stpredict.targets import Classes, Expression, FollowUp, Values
from stpredict.tl.learn.targets._base import slots_for, slots_of
from stpredict.tl.learn.targets._parse import parse_target


@pytest.fixture
def named(toy: Any) -> Any:
    toy.obs["tumor"] = toy.obsm["X_toy"][:, 0] > 0
    toy.var["chosen"] = toy.var_names.isin(["G4", "G1"])
    toy.obs["both"] = toy.obs["tumor"]
    toy.obs["area"], toy.obs["age"] = np.linspace(0, 1, 72), np.linspace(40, 70, 72)
    toy.obs["grade"] = np.arange(72) % 3
    toy.obsm["scores"] = toy.obsm["X_toy"][:, :2] ** 2
    toy.var["both"] = toy.var["chosen"]
    return toy


@pytest.mark.parametrize(
    ("target", "request_"),
    [
        (None, Expression()),
        ("tumor", Classes("tumor")),
        ("chosen", Expression(panel="chosen")),
        (["G4", "G1"], Expression(panel=["G4", "G1"])),
        (("G4",), Expression(panel=["G4"])),
        (np.array(["G4", "G1"]), Expression(panel=["G4", "G1"])),
        (pd.Index(["G4", "G1"]), Expression(panel=["G4", "G1"])),
        ([], Expression(panel=[])),
        ({}, Expression()),
        ({"panel": "moran", "layer": "log", "always": ["G1"]}, Expression("moran", "log", ["G1"])),
        ({"panel": {"method": "mean", "n_genes": 2}}, Expression(panel={"method": "mean", "n_genes": 2})),
        (Expression(panel=["G1"]), Expression(panel=["G1"])),
        (Classes("both"), Classes("both")),
        (FollowUp("days", "died"), FollowUp("days", "died")),
        ("area", Values("area")),
        ("scores", Values(obsm="scores")),
        (["area", "age"], Values(["area", "age"])),
        (["area"], Values("area")),
        (Values("grade", link="log"), Values(obs=("grade",), link="log")),
        (["G1", "G9"], Expression(panel=["G1", "G9"])),
    ],
)
def test_shorthands(named: Any, target: Any, request_: Any) -> None:
    assert parse_target(named, target) == request_
    assert slots_for(parse_target(named, target)) is slots_for(request_)


def test_a_request_is_taken_as_it_is(named: Any) -> None:
    for request in (Expression(), Classes("tumor"), FollowUp()):
        assert parse_target(named, request) is request


@pytest.mark.parametrize("kind", ["expression", "classes", "follow_up", "values"])
def test_kinds_are_found_by_name_and_by_request(kind: str) -> None:
    slots = slots_of(kind)
    assert slots.kind == kind
    assert slots_for(object.__new__(slots.request)) is slots


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (
            "both",
            ValueError,
            r"one column.*obs\['both'\] and var\['both'\].*Classes\('both'\).*Expression\(panel='both'\)",
        ),
        (
            "nowhere",
            KeyError,
            r"no 'nowhere' among \['sample', .*'tumor'.*\], \[.*'scores'.*\] and \['chosen', 'both'\].*panel='nowhere'",
        ),
        ("G1", KeyError, r"found no 'G1'.*genes are passed as a list"),
        ("moran", KeyError, r"a selection as stp.targets.Expression\(panel='moran'\)"),
        ({"genes": ["G1"], "outcome": 1}, TypeError, r"panel, layer, always; found 'genes', 'outcome'"),
        (3, TypeError, r"stp.targets; found int"),
        (stp, TypeError, r"stp.targets; found module"),
    ],
)
def test_errors_name_what_was_found(named: Any, frozen: Any, target: Any, error: type[Exception], message: str) -> None:
    before = frozen(named)
    with pytest.raises(error, match=message):
        parse_target(named, target)
    for call in (stp.tl.fit, stp.tl.fit_folds, stp.tl.cross_validate):
        with pytest.raises(error, match=message):
            call(named, "mlp", target=target)
    assert frozen(named) == before


@pytest.mark.parametrize(
    ("change", "target", "message"),
    [
        ("obs and obsm", "scores", r"obs\['scores'\] and obsm\['scores'\]; .*Values\(obs='scores'\) or .*Values\(obsm='scores'\)"),
        ("obs and gene", "G1", r"obs\['G1'\] and the gene 'G1'; .*Values\(obs='G1'\) or .*Expression\(panel=\['G1'\]\)"),
        ("obsm and gene", "G1", r"obsm\['G1'\] and the gene 'G1'; .*Values\(obsm='G1'\)"),
        ("obs and gene", ["G1"], r"found G1 as both.*Expression.*Values"),
        ("obs and gene", ["G1", "area"], r"found G1, area in obs, G1 among the genes, of 2 names"),
        ("", ["area", "G2"], r"found area in obs, G2 among the genes"),
        ("", ["area", "nowhere"], r"found area in obs, none among the genes, of 2 names"),
        ("", "grade", r"whole numbers of 3 kinds.*Classes\('grade'\) or .*Values\(obs='grade'\)"),
        ("text", "area", r"obs\['area'\]; found text that reads as numbers"),
    ],
)  # fmt: skip
def test_ambiguous_names_are_refused(named: Any, change: str, target: Any, message: str) -> None:
    if change.startswith("obs and"):
        named.obs["scores"] = named.obs["G1"] = named.obs["area"]
    if change == "obsm and gene":
        named.obsm["G1"] = named.obsm["scores"]
    if change == "text":
        named.obs["area"] = named.obs["area"].astype(str)
    with pytest.raises(ValueError, match=message):
        parse_target(named, target)


def test_genes_that_are_columns_too_are_a_panel_among_others(named: Any) -> None:
    """A column of counts of one gene, as scanpy adds them, does not stand in the way of a panel with other genes."""
    named.obs["G1"] = 1.5
    assert parse_target(named, ["G1", "G2"]) == Expression(panel=["G1", "G2"])


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, TypeError), ({"obs": "a", "obsm": "b"}, TypeError), ({"obs": "a", "columns": ["b"]}, TypeError),
        ({"obs": "a", "link": "cube"}, ValueError),
    ],
)  # fmt: skip
def test_values_are_asked_for_in_one_way(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="expected"):
        Values(**fields)


def test_always(toy: Any) -> None:
    assert Expression(always="G1").always == ("G1",)
    assert Expression(always=["G1", "G0"]).always == ("G1", "G0")
    assert hash(Expression(always=["G1"])) == hash(Expression(always=("G1",)))


@pytest.mark.parametrize(
    ("panel", "always", "genes"),
    [
        (["G4", "G1"], ["G3"], ["G1", "G3", "G4"]),
        (["G4", "G1"], ["G1"], ["G1", "G4"]),
        (["G4", "G1"], (), ["G4", "G1"]),
        ({"method": "mean", "n_genes": 2}, ["G5", "G0"], None),
        ("chosen", ["G0"], ["G0", "G2", "G5"]),
        (None, ["G0"], [f"G{i}" for i in range(6)]),
    ],
)
def test_genes_that_are_always_predicted_stand_in_the_order_of_the_object(
    toy: Any, panel: Any, always: Any, genes: list[str] | None
) -> None:
    toy.var["chosen"] = toy.var_names.isin(["G5", "G2"])
    train = (toy.obs["patient"] != "p0").to_numpy()
    model = stp.tl.fit(toy, "ridge", train, target=stp.targets.Expression(panel=panel, always=always))
    assert sorted(model.panel) == sorted(set(model.panel))
    assert set(always) <= set(model.panel)
    if genes is None:
        top = set(toy.var_names[np.argsort(-toy.X[train].mean(axis=0))[:2]])
        genes = [gene for gene in toy.var_names if gene in top | set(always)]
    assert model.panel == genes
    stp.tl.predict(toy, model)
    assert list(prediction_frame(toy, "predicted").columns) == genes


def test_genes_that_are_always_predicted_have_to_exist(toy: Any, frozen: Any) -> None:
    before = frozen(toy)
    with pytest.raises(KeyError, match="missing NOPE"):
        stp.tl.fit(toy, "ridge", target=stp.targets.Expression(panel=["G1"], always=["NOPE"]))
    assert frozen(toy) == before


def test_genes_are_added_to_the_panel_of_each_fold(toy: Any) -> None:
    target = {"panel": {"method": "mean", "n_genes": 1}, "always": ["G5", "G2"]}
    models = stp.tl.fit_folds(toy, "ridge", 3, target=target, baselines=False)
    for model in models:
        assert {"G2", "G5"} <= set(model.panel)
        assert model.panel == [gene for gene in toy.var_names if gene in set(model.panel)]
    columns = list(prediction_frame(toy, "predicted").columns)
    assert columns == [gene for gene in toy.var_names if gene in set(columns)]
    assert prediction_frame(toy, "predicted")[["G2", "G5"]].notna().all(axis=None)
