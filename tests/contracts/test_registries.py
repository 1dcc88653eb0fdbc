"""Networks and encoders under names: what cannot be entered is refused, and nothing is lost by it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import stpredict as stp
from stpredict.encoders._registry import ENCODERS
from stpredict.models import INPUTS, Predictor
from stpredict.models.base._registry import MODELS, register


@dataclass(frozen=True)
class Config:
    unmeasured: bool = False


class Network(Predictor):
    needs = frozenset({"features"})


@pytest.fixture(autouse=True)
def _names_as_they_were() -> Iterator[None]:
    before = [(registry, list(registry)) for registry in (MODELS, ENCODERS)]
    yield
    for registry, names in before:
        added = set(registry) - set(names)
        for name in added:
            registry.remove(name)
        assert list(registry) == names


def enter(kind: str, name: str, maker: Any = Network) -> None:
    if kind == "model":
        register(name, config=Config, description="for these tests")(maker)
    else:
        stp.encoders.register(name, dim=3, tile_px=8)(maker)


def listed(kind: str) -> list[str]:
    return list((stp.models.list_models() if kind == "model" else stp.encoders.list_encoders()).index)


@pytest.mark.parametrize("needs", [{"bag"}, {"features", "grid"}, {"Features"}, {"features", "positions", ""}])
def test_an_unknown_name_in_needs_is_refused(needs: set[str]) -> None:
    class Odd(Predictor):
        pass

    Odd.needs = frozenset(needs)
    unknown = ", ".join(repr(name) for name in sorted(needs - INPUTS.keys()))
    with pytest.raises(ValueError, match=rf"expected `needs` of model 'odd' among .*; found {unknown}$"):
        register("odd", config=Config, description="for these tests")(Odd)
    assert "odd" not in listed("model")


def test_an_unknown_name_among_what_a_configuration_reads_is_refused() -> None:
    class Odd(Network):
        @classmethod
        def reads(cls, config: Any) -> frozenset[str]:
            return frozenset({"pictures"})

    register("odd", config=Config, description="for these tests")(Odd)
    with pytest.raises(ValueError, match=r"expected `needs` of model 'odd' among .*; found 'pictures'$"):
        stp.models.get_model("odd").reads()


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_can_be_needed(name: str) -> None:
    class Reader(Predictor):
        needs = frozenset({name})

    register("reader", config=Config, description="for these tests")(Reader)
    assert stp.models.get_model("reader").reads() == {name}
    assert stp.models.list_models("reader").loc["reader", "needs"] == name


def test_a_configuration_that_is_no_dataclass_is_refused() -> None:
    with pytest.raises(TypeError, match="expected the configuration of 'odd' to be a dataclass; found <class 'dict'>"):
        register("odd", config=dict, description="for these tests")(Network)


@pytest.mark.parametrize(("kind", "taken"), [("model", "ridge"), ("encoder", "color-texture")])
def test_a_taken_name_is_an_error(kind: str, taken: str) -> None:
    before = listed(kind)
    found = stp.models.get_model(taken) if kind == "model" else ENCODERS.get(taken)
    with pytest.raises(ValueError, match=rf"expected a new {kind} name; found '{taken}', registered by stpredict\..*"):
        enter(kind, taken)
    assert listed(kind) == before
    assert (stp.models.get_model(taken) if kind == "model" else ENCODERS.get(taken)) is found


@pytest.mark.parametrize("kind", ["model", "encoder"])
def test_a_new_name_is_entered_and_is_taken_from_then_on(kind: str) -> None:
    before = listed(kind)
    enter(kind, "mine")
    assert listed(kind) == sorted([*before, "mine"])
    enter(kind, "mine")  # a cell of a notebook that is run again

    class Other(Network):
        pass

    with pytest.raises(ValueError, match=f"expected a new {kind} name; found 'mine', registered by .*Network"):
        enter(kind, "mine", Other)


@pytest.mark.parametrize("kind", ["model", "encoder"])
def test_an_unknown_name_lists_the_known_ones(kind: str) -> None:
    with pytest.raises(
        KeyError, match=rf"expected a registered {kind} \(.*{listed(kind)[0]}.*found 'nothing'; see stp\."
    ):
        stp.models.get_model("nothing") if kind == "model" else stp.encoders.get_encoder("nothing")


def test_a_name_of_the_package_is_taken_before_the_package_has_been_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who registers `"ridge"` first of all is told so at once, and no later call finds half a registry."""
    package = tmp_path / "registering_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from stpredict.core._registry import Registry\n"
        "THINGS = Registry('thing', 'registering_package', 'registering_package.THINGS')\n"
    )
    for name in ("first", "second"):
        (package / f"_{name}.py").write_text(
            "from registering_package import THINGS\n\n\ndef make():\n    return None\n\n\n"
            f"THINGS.add({name!r}, make, make)\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    things = importlib.import_module("registering_package").THINGS
    with pytest.raises(ValueError, match="expected a new thing name; found 'first', registered by registering_package"):
        things.add("first", Network, Network)
    assert list(things) == ["first", "second"]
