"""The model card: what a fitted model predicts, from what, trained on whom, how well, and under which licenses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from stpredict.training._described import Described
from stpredict.training.targets import CountsTarget, ExpressionTarget

if TYPE_CHECKING:
    import pandas as pd


_LISTED = 30  # names that the card lists; all of them are in `panel.tsv`, or in the program
_MOST_ROWS = 60
_LIMITS = """Values are predicted, not measured. They are for research, and no basis for a diagnosis. How well a gene is predicted
differs between genes, organs, stains and scanners: compare with measured sections like yours before relying on any.
"""


def model_card(model: Described, *, use: str, scores: pd.DataFrame | None = None, license: str | None = None) -> str:
    """Describe a model in Markdown, with a header that the Hugging Face hub reads.

    Names of patients and sections are left out; their numbers are given.

    Parameters
    ----------
    model
        The fitted model.
    use
        Lines of Python that use it.
    scores
        Table of scores to show, such as that of :func:`stpredict.tl.summarize`.
    license
        License of the weights, as the hub spells it.
    """
    parts = {
        "What it predicts": _target(model),
        "What it reads": _inputs(model),
        "How it was trained": _training(model),
        "How well": _scores(scores),
        "How to use it": f"```python\n{use.strip()}\n```\n",
        "Limits": _LIMITS,
    }
    tags = ["spatial-transcriptomics", "histology", "stpredict"]
    head = ["---", "library_name: stpredict", f"tags: {json.dumps(tags)}"]
    head += [] if license is None else [f"license: {json.dumps(license)}"]
    body = "\n".join(f"## {title}\n\n{text}" for title, text in parts.items())
    return "\n".join([*head, "---", "", f"# {model.model}: {_what(model)} from H&E", "", body])


def _what(model: Described) -> str:
    genes = isinstance(model.target, ExpressionTarget | CountsTarget)
    n = len(model.panel)
    return f"{n} {'gene' if genes else 'output'}{'s' if n != 1 else ''}"


def _target(model: Described) -> str:
    names, unit = model.panel, model.normalization
    listed = ", ".join(f"`{_line(name)}`" for name in names[:_LISTED])
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    lines = [f"- kind of target: {model.target.kind.replace('_', '-')}", f"- {_what(model)}: {listed}{more}"]
    if unit:
        lines.append(f"- unit: {', '.join(f'{key} = {_line(value)}' for key, value in unit.items() if _plain(value))}")
    return "\n".join(lines) + "\n"


def _inputs(model: Described) -> str:
    lines = []
    for slot, entry in model.features["slots"].items():
        encoder = str(entry.get("encoder", slot.removeprefix("X_")))
        size = f", tiles of {entry['tile_um']:g} µm" if entry.get("tile_um") else ""
        lines.append(
            f"- {entry.get('dim', '?')} features of the encoder `{_line(encoder)}`{size}; {_license_of(encoder)}"
        )
    if model.training.patch:
        lines.append(
            f"- patches of {model.training.patch[0]:g} µm as {model.training.patch[1]:g} × {model.training.patch[1]:g} pixels"
        )
    if model.features["slots"] and model.features["scaling"] == "section":
        lines.append(
            "- features are standardized within each section, so that all of its observations are given at once"
        )
    others = sorted(model.network.needs - {"features", "patches"})
    lines += [f"- {', '.join(others)}"] if others else []
    return "\n".join(lines or ["- nothing: the prediction is the same everywhere"]) + "\n"


def _license_of(encoder: str) -> str:
    """What is known of the license of an encoder's weights."""
    from stpredict.encoders import list_encoders

    known = list_encoders()
    if encoder not in known.index:
        return "license of its weights: not known to stpredict"
    row = known.loc[encoder]
    gated = ", gated" if row["gated"] else ""
    return f"license of its weights: {row['license'] or 'not known to stpredict'}{gated}"


def _training(model: Described) -> str:
    facts = model.training
    others = [name for name in facts.others_seen if name not in facts.patients]
    unknown = " and others that were not recorded" if "unknown" in facts.patients_seen else ""
    lines = [
        f"- {facts.n_obs} observations of {len(facts.patients)} patients in {len(facts.samples)} sections{unknown}",
        f"- inner validation: {facts.validated_on}; epochs: {facts.n_epochs}; seed: {facts.seed}",
    ]
    if n := len([name for name in others if name != "unknown"]):
        lines.append(f"- {n} more patients were seen by the panel, the features or the weights it started from")
    if facts.allow_leakage:
        lines.append("- **leaks between training and test were accepted** (`allow_leakage=True`)")
    return "\n".join(lines) + "\n"


def _scores(scores: pd.DataFrame | None) -> str:
    if scores is None:
        return "Not recorded with this model. Scores on its training patients would say nothing.\n"
    if len(scores) > _MOST_ROWS:
        raise ValueError(
            f"expected a table of scores of at most {_MOST_ROWS} rows; found {len(scores)}; pass stp.tl.summarize(scores)"
        )
    table = scores if scores.index.name is None else scores.reset_index()
    rows = [[_line(name) for name in table.columns], ["---"] * table.shape[1]]
    rows += [[_line(f"{v:.3g}" if isinstance(v, float) else v) for v in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _line(value: Any) -> str:
    """Text in one line that ends neither a cell of a table nor a piece of code."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("`", "'")
