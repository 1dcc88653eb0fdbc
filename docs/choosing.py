"""The table of models to choose from."""

from __future__ import annotations

import stpredict as stp
from stpredict.models.base._advice import ADVICE

#: What is no network of the registry, and what it reads.
_OTHERS = {"istar": "dense map, positions"}


def choosing() -> dict[str, list[str]]:
    """Columns of the table; an error names the networks that have no line."""
    table = stp.models.list_models()
    missing = sorted(set(table.index) - set(ADVICE))
    if missing:
        raise KeyError(f"expected a line in models/base/_advice.py for every network; missing {missing}")
    return {
        "model": [f"[`{name}`](methods.md#{name})" for name in ADVICE],
        "reads": [_OTHERS.get(name) or str(table.loc[name, "needs"]).replace("_", " ") or "nothing" for name in ADVICE],
        "needs": [advice.needs for advice in ADVICE.values()],
        "when": [advice.when for advice in ADVICE.values()],
        "beats the ridge here": [advice.against_ridge for advice in ADVICE.values()],
    }
