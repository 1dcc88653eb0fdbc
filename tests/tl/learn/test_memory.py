"""Memory of a fit, in a process of its own: that of others would be in the way."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

_CHILD = """
import ctypes, re, sys, warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import stpredict as stp

warnings.simplefilter("ignore")
stp.settings.progress = False
model, n, d, g, kind = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]


def held(name):
    ctypes.CDLL(None).malloc_trim(0)
    return 1024 * int(re.search(rf"{name}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])


def made(n, d, g):
    rng = np.random.default_rng(0)
    section = np.arange(n) * 8 // n
    obs = pd.DataFrame({"sample": [f"S{code}" for code in section], "patient": [f"P{code // 2}" for code in section]})
    features = rng.standard_normal((n, d), dtype=np.float32)
    target = features[:, :1] + rng.standard_normal((n, g), dtype=np.float32)
    obs.index = obs.index.astype(str)
    slots = {"obs": obs.astype("category"), "obsm": {"X_mine": features, "spatial": rng.random((n, 2))}}
    if kind == "counts":
        return ad.AnnData(None, layers={"counts": np.ceil(np.abs(target, out=target), out=target)}, **slots)
    return ad.AnnData(target, uns={"log1p": {}}, **slots)


def fit(adata):
    training = None if model == "ridge" else {"max_epochs": 2, "patience": 1}
    target = stp.targets.Counts() if kind == "counts" else None
    return stp.tl.fit(adata, model, features="X_mine", target=target, baselines=False, training=training)


fit(made(200, 4, 3))  # whatever is imported on the way is
Path("/proc/self/clear_refs").write_text("5")
before = held("VmRSS")
adata = made(n, d, g)
Path("/proc/self/clear_refs").write_text("5")
fit(adata)
print((held("VmHWM") - before) / (4 * n * (d + g)))
"""


def times_the_data(model: str, n: int, d: int, g: int, kind: str, folder: str) -> float:
    """Most memory of a fit, the object itself included, in units of features plus targets, expression or counts."""
    found = subprocess.run(
        [sys.executable, "-c", _CHILD, model, str(n), str(d), str(g), kind],
        capture_output=True, text=True, check=True, env={**os.environ, "STPREDICT_CACHE": folder},
    )  # fmt: skip
    return float(re.findall(r"\d+\.\d+", found.stdout)[-1])


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this system does not tell peaks of memory")
@pytest.mark.parametrize("kind", ["expression", "counts"])
def test_a_ridge_needs_two_and_a_half_times_its_data(kind, tmp_path) -> None:
    # 130 MB of data: what does not grow with it, as blocks of rows with their temporaries, is some 30 MB.
    assert times_the_data("ridge", 80_000, 256, 150, kind, str(tmp_path)) < 2.5
