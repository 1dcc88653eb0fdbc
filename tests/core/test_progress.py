"""One bar per call, and nothing else on the screen."""

from __future__ import annotations

import re

import pytest

import stpredict as stp

NET = {"model": "mlp", "training": {"max_epochs": 2}}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Bars are drawn at every step, as on a terminal; `read()` gives what was printed since."""
    import tqdm

    class Bar(tqdm.tqdm):
        def __init__(self, *args, disable=False, **options):
            super().__init__(*args, disable=disable, **({"mininterval": 0} | options))

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    monkeypatch.setattr(stp.settings, "progress", True)
    return lambda: "".join(capfd.readouterr())


def test_a_fit_has_one_bar_with_its_epochs_and_scores(toy, terminal, tmp_path) -> None:
    stp.tl.fit(toy, "mlp", training={"max_epochs": 3}, baselines=(), path=tmp_path / "model")
    text = terminal()
    assert text.count("\n") == 1  # one line, written again and again
    assert re.search(r"fit mlp, training: +100%.*3/3 .*validation loss \d\.\d{3}", text)
    assert "fit mlp, refit on all" in text
    assert not re.search(r"Validation|Epoch \d|Trainer|GPU", text)  # Lightning's own


def test_folds_have_one_bar_that_says_what_the_fit_is_at(toy, terminal) -> None:
    stp.tl.cross_validate(toy, {"net": NET}, baselines=(), ceiling=False)
    text = terminal()
    assert text.count("\n") == 1
    assert re.search(r"folds: 100%.*3/3", text)
    assert re.search(r"epoch 1/2, validation loss \d\.\d{3}", text)
    assert not re.search(r"Validation|Epoch \d|Trainer|GPU", text)


def test_the_first_call_of_what_compiles_says_so(toy, terminal, monkeypatch) -> None:
    from stpredict.core._progress import steps

    assert list(steps(["a", "b"], "domains", compiled_by="no such module")) == ["a", "b"]
    assert "domains (the first call compiles): 100%" in terminal()
    list(steps(["a"], "domains", compiled_by="sys"))
    assert "compiles" not in terminal()


def test_nothing_is_shown_without_progress(toy, terminal, monkeypatch, tmp_path) -> None:
    from stpredict.core._progress import steps

    monkeypatch.setattr(stp.settings, "progress", False)
    stp.tl.fit(toy, "mlp", training={"max_epochs": 2}, baselines=(), path=tmp_path / "model")
    stp.tl.cross_validate(toy, {"net": NET}, baselines=(), ceiling=False)
    list(steps(["a"], "domains"))
    assert terminal() == ""


@pytest.mark.parametrize(("kind", "n"), [("terminal", 8), ("notebook", 8), ("log", 1)])
def test_a_log_does_not_keep_every_epoch(kind: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from stpredict.core._progress import beside

    drawn: list[bool] = []
    bar = SimpleNamespace(disable=False,
        mininterval=0.1, gui=kind == "notebook", fp=SimpleNamespace(isatty=lambda: kind == "terminal"),
        set_postfix_str=lambda text, refresh: drawn.append(refresh),
    )  # fmt: skip
    clock = iter(range(8))
    monkeypatch.setattr("time.monotonic", lambda: 0.5 * next(clock))
    say = beside(bar)
    for epoch in range(8):
        say(f"epoch {epoch}/8")
    assert len(drawn) == 8
    assert sum(drawn) == n


def test_folds_of_a_fit_need_no_bar_that_is_drawn(toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `TQDM_DISABLE` is set, as it is for these tests, a bar that was asked for has no place to be drawn in."""
    monkeypatch.setattr(stp.settings, "progress", True)
    scores = stp.tl.cross_validate(toy, {"net": NET}, baselines=(), ceiling=False)
    assert set(scores["model"]) == {"net"}
