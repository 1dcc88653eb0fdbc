"""Genes of sets under the names that data have for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def renamed(
    sets: Mapping[str, Sequence[str]], genes: Sequence[str], aliases: Mapping[str, str]
) -> tuple[dict[str, list[str]], dict[str, str], dict[str, str]]:
    """Sets with genes that are missing under their name replaced by the same gene under another.

    Parameters
    ----------
    sets
        Genes of each set.
    genes
        Names that the data have.
    aliases
        Symbol that other symbols stand for: `{"KIAA0101": "PCLAF"}`. It does not matter which of the two the data have.

    Returns
    -------
    The sets; what was replaced by what; and what was not though there is another name, with the reason. A gene is not
    replaced by one that the sets name themselves, since that may be another gene, nor where several names of the data stand
    for it, or several names of the sets for one of the data.
    """
    present = set(genes)
    named = dict.fromkeys(name for members in sets.values() for name in members)
    known_as: dict[str, list[str]] = {}
    for name in genes:
        known_as.setdefault(aliases.get(name, name), []).append(name)
    found: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name in named:
        if name in present:
            continue
        candidates = known_as.get(aliases.get(name, name), [])
        if not candidates:
            continue
        if len(candidates) > 1:
            refused[name] = f"ambiguous: {', '.join(candidates)}"
        elif candidates[0] in named:
            refused[name] = f"{candidates[0]} is in the sets itself"
        else:
            found[name] = candidates[0]
    targets = list(found.values())
    for name, target in list(found.items()):
        if targets.count(target) > 1:
            refused[name] = f"{target} is another name of several genes of the sets"
            del found[name]
    return {term: [found.get(name, name) for name in members] for term, members in sets.items()}, found, refused
