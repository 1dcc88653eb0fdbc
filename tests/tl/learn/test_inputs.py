"""Every input that networks may read has a reader."""

from __future__ import annotations

import pytest

import stpredict as stp
from stpredict.models import INPUTS
from stpredict.tl.learn.inputs._reader import readers


def test_every_input_has_one_reader_and_every_reader_an_input() -> None:
    found = readers()
    assert set(found) == set(INPUTS)
    for name, reader in found.items():
        assert name in reader.names
        assert all(type(found[other]) is type(reader) for other in reader.names)


def test_inputs_that_lie_side_by_side_are_read_together() -> None:
    found = readers()
    for name, each in INPUTS.items():
        if each.mask is not None:
            assert type(found[name]) is type(found[each.mask])
    assert type(found["counts"]) is type(found["size_factor"])


@pytest.mark.parametrize("name", stp.models.list_models().index)
def test_what_networks_read_can_be_read(name: str) -> None:
    info = stp.models.get_model(name)
    for preset in info.presets:
        assert info.reads(preset) <= set(readers())
