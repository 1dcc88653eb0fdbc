"""Regions of measured sections, as the benchmark reads them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "her2st"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data/her2st")


def script():
    spec = importlib.util.spec_from_file_location("her2st_domains", ROOT / "benchmarks" / "her2st_domains.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_section():
    """Section B1 has regions whose expression differs: found above every reference that moves them."""
    table = script().benchmark(DATA, ["B1"], 2)
    assert table["genes"].tolist() == np.repeat(["785 genes", "2000 variable", "all genes"], 2).tolist()
    assert (table["n_labeled"] <= 269).all()
    assert (table["n_labeled"] >= 260).all()
    assert (table["n_domains"] == 4).all()
    assert (table["ari"] > table["ari_shuffled"] + 0.1).all()
    assert table["ari_shuffled"].abs().max() < 0.02
    assert table["nmi"].between(0, 1).all()
    everyone, labeled = (table[table["labeled_only"] == only]["n_obs"].to_numpy() for only in (False, True))
    assert (everyone - labeled >= 25).all()
    lines = script().show(table).splitlines()
    assert len(lines) == 2 + 6 + 6
    assert {line.count("|") for line in lines} == {12}
