"""One bar per call, and nothing else on the screen."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

CODE = """
import warnings, sys
warnings.simplefilter("ignore")
import stpredict as stp
adata = stp.datasets.synthetic_cohort(3, 1, 6, n_spots=16, microns_per_pixel=4.0)
adata.obsm["X_own"] = adata.to_df().to_numpy()[:, :3]
adata.uns["stpredict"] = {"X_own": {"encoder": "own"}}
stp.settings.progress = False
stp.pp.normalize(adata)
stp.settings.progress = sys.argv[1] == "True"
print("begin", file=sys.stderr)
stp.tl.fit(adata, "mlp", training={"max_epochs": 3}, baselines=(), path="model")
print("folds", file=sys.stderr)
stp.tl.cross_validate(adata, {"net": {"model": "mlp", "training": {"max_epochs": 2}}}, baselines=(), ceiling=False)
print("end", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, list[str]]:
    """What a fit and a cross-validation print on a terminal, with and without progress."""
    found = {}
    for progress in (True, False):
        folder = tmp_path_factory.mktemp("progress")
        environment = {key: value for key, value in os.environ.items() if key != "TQDM_DISABLE"}
        environment |= {"STPREDICT_CACHE": str(folder), "TQDM_MININTERVAL": "0", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(progress)], capture_output=True, text=True, cwd=folder, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert not done.stdout
        found[progress] = re.split("begin\n|folds\n|end\n", done.stderr)[1:3]
    return found


def test_a_fit_has_one_bar_with_its_epochs_and_scores(printed) -> None:
    fit = printed[True][0]
    assert fit.count("\n") == 1  # one line, written again and again
    assert re.search(r"fit mlp, training: +\d+%.*3/3 .*validation loss \d\.\d{3}", fit)
    assert "fit mlp, refit on all" in fit


def test_folds_have_one_bar_that_says_what_the_fit_is_at(printed) -> None:
    folds = printed[True][1]
    assert folds.count("\n") == 1
    assert "3/3" in folds
    assert re.search(r"epoch 1/2, validation loss \d\.\d{3}", folds)


def test_lightning_prints_nothing(printed) -> None:
    text = "".join(part for parts in printed.values() for part in parts)
    assert not re.search(r"Validation|Epoch \d|Trainer|GPU|it/s\?|\?it", text)


def test_nothing_is_shown_without_progress(printed) -> None:
    assert printed[False] == ["", ""]
