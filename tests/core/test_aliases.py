from __future__ import annotations

from stpredict.core._aliases import renamed

ALIASES = {"KIAA0101": "PCLAF", "OEATC1": "PCLAF", "MLF1IP": "CENPU", "OLD1": "NEW", "OLD2": "NEW"}


def test_old_and_new_names_are_one_gene_whichever_the_data_have() -> None:
    sets = {"cycle": ["KIAA0101", "CENPU", "PCNA"], "other": ["KIAA0101"]}
    found, names, refused = renamed(sets, ["PCLAF", "MLF1IP", "PCNA"], ALIASES)
    assert found == {"cycle": ["PCLAF", "MLF1IP", "PCNA"], "other": ["PCLAF"]}
    assert names == {"KIAA0101": "PCLAF", "CENPU": "MLF1IP"}
    assert refused == {}
    assert sets["cycle"][0] == "KIAA0101"


def test_what_is_there_or_ambiguous_stays_as_it_is() -> None:
    # Present under its own name, though another name of it is there as well.
    assert renamed({"a": ["OLD1"]}, ["OLD1", "NEW"], ALIASES)[1:] == ({}, {})
    # Two names of the data stand for it.
    assert renamed({"a": ["KIAA0101"]}, ["PCLAF", "OEATC1"], ALIASES)[2] == {"KIAA0101": "ambiguous: PCLAF, OEATC1"}
    # The sets name the other one themselves: it would count twice.
    sets, names, refused = renamed({"a": ["KIAA0101", "PCLAF"]}, ["PCLAF"], ALIASES)
    assert (sets["a"], names, list(refused)) == (["KIAA0101", "PCLAF"], {}, ["KIAA0101"])
    # Two genes of the sets would become one.
    assert set(renamed({"a": ["OLD1"], "b": ["OLD2"]}, ["NEW"], ALIASES)[2]) == {"OLD1", "OLD2"}
    # No other name is known.
    assert renamed({"a": ["XYZ"]}, ["PCLAF"], ALIASES)[1:] == ({}, {})
