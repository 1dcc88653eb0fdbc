"""A bank of training spots that networks look up: their keys, their expression, and whose they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_CHUNK = 256  # queries whose distances to the whole bank are held at once
_SPARE = 16  # candidates beyond k that are compared exactly
# Error of a product relative to the lengths of its factors, also in the reduced precision of accelerators.
_PRODUCT_ERROR = 2.0**-10


class Bank(nn.Module):
    """Training spots to look up, empty until :meth:`fill`.

    A network that keeps one names it `bank`, fills it in `remember` or `finish`, and calls :meth:`room` in `make_room`.

    Parameters
    ----------
    n_keys
        Width of the keys.
    n_genes
        Number of genes.

    Attributes
    ----------
    keys
        (n, n_keys) float32: what queries are compared with.
    values
        (n, n_genes) float32 expression.
    patient, section
        (n,) int64 number of the patient and the section in the training set.
    """

    keys: Tensor
    values: Tensor
    patient: Tensor
    section: Tensor

    def __init__(self, n_keys: int, n_genes: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(0, n_keys))
        self.register_buffer("values", torch.zeros(0, n_genes))
        self.register_buffer("patient", torch.zeros(0, dtype=torch.long))
        self.register_buffer("section", torch.zeros(0, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.keys)

    def fill(self, keys: Tensor, values: Tensor, patient: Tensor, section: Tensor | None = None) -> None:
        """Replace the contents.

        Parameters
        ----------
        keys
            (n, n_keys).
        values
            (n, n_genes).
        patient, section
            (n,) numbers; without sections all are -1.

        Raises
        ------
        ValueError
            When a shape is not that of this bank; it is left as it was.
        """
        section = torch.full_like(patient, -1) if section is None else section
        n = len(keys)
        wanted = {
            "keys": (n, self.keys.shape[1]), "values": (n, self.values.shape[1]), "patient": (n,), "section": (n,),
        }  # fmt: skip
        given = {"keys": keys, "values": values, "patient": patient, "section": section}
        for name, shape in wanted.items():
            if tuple(given[name].shape) != shape:
                found = tuple(given[name].shape)
                raise ValueError(f"expected {name} of shape {shape} for this retrieval bank; found {found}")
        for name, tensor in given.items():
            setattr(self, name, tensor.detach().to(getattr(self, name)).clone())

    def room(self, state: Mapping[str, Tensor], prefix: str = "bank.") -> None:
        """Take the length, and no width, of the bank in a saved state, before it is loaded.

        Parameters
        ----------
        state
            Of the whole network.
        prefix
            What the names of the bank begin with.
        """
        if prefix + "keys" not in state:
            return
        n = len(state[prefix + "keys"])
        for name in ("keys", "values", "patient", "section"):
            own = getattr(self, name)
            setattr(self, name, own.new_zeros(n, *own.shape[1:]))

    @torch.no_grad()
    def nearest(
        self,
        queries: Tensor,
        k: int,
        *,
        patient: Tensor | None = None,
        section: Tensor | None = None,
        chunk: int = _CHUNK,
    ) -> tuple[Tensor, Tensor]:
        """Find the entries whose keys are nearest to each query in Euclidean distance.

        The result is exact. Of equally near entries the first in the bank comes first. Distances to the whole bank are
        held for `chunk` queries at a time.

        Parameters
        ----------
        queries
            (m, n_keys).
        k
            Number of entries.
        patient
            (m,) whose entries a query must not find; -1 excludes nobody. `None`: everybody's may be found.
        section
            (m,) section whose entries a query must not find, by its number in the training set, likewise.
        chunk
            Queries per step.

        Returns
        -------
        Indices (m, k) int64 into the bank, nearest first, and distances (m, k). Where fewer than `k` entries are left for
        a query, the remaining indices are 0 and their distances infinite.

        Raises
        ------
        ValueError
            When the bank is empty, or nothing is left for a query.
        """
        if len(self) == 0:
            raise ValueError(
                "expected a retrieval bank of training spots; found an empty retrieval bank; "
                "train the network with stp.tl.fit, or load a saved one"
            )
        if queries.dim() != 2 or queries.shape[1] != self.keys.shape[1]:
            raise ValueError(f"expected queries (m, {self.keys.shape[1]}); found {tuple(queries.shape)}")
        queries = queries.to(self.keys)
        # Products of centered vectors lose less.
        center = self.keys.mean(dim=0)
        keys = self.keys - center
        square = keys.square().sum(dim=1)
        found = []
        for rows in torch.arange(len(queries), device=queries.device).split(chunk):
            banned = None
            for numbers, own in ((patient, self.patient), (section, self.section)):
                if numbers is not None:
                    given = numbers[rows].to(own).unsqueeze(1)
                    same = (given == own) & (given >= 0)
                    banned = same if banned is None else banned | same
            if banned is not None and bool(banned.all(dim=1).any()):
                what = "patient" if section is None else "section" if patient is None else "patient and section"
                raise ValueError(
                    f"expected training spots of another {what} to look up; found none in the retrieval bank of "
                    f"{len(self)} spots of {len(self.patient.unique())} patients; "
                    f"train on more of them, or allow same_patient=True"
                )
            found.append(self._nearest(queries[rows], keys, square, center, k, banned))
        if not found:
            return queries.new_zeros(0, k, dtype=torch.long), queries.new_zeros(0, k)
        return torch.cat([index for index, _ in found]), torch.cat([distance for _, distance in found])

    def _nearest(
        self, queries: Tensor, keys: Tensor, square: Tensor, center: Tensor, k: int, banned: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Choose candidates by products, which are fast, and among them by differences, which are exact."""
        centered = queries - center
        with torch.autocast(queries.device.type, enabled=False):
            approximate = square - 2 * centered @ keys.T  # less the square of the query, common to a row
        if banned is not None:
            approximate.masked_fill_(banned, torch.inf)
        n_candidates = min(k + _SPARE, len(self))
        value, candidate = approximate.topk(n_candidates, dim=1, largest=False)
        candidate, order = candidate.sort(dim=1)
        distance = (queries.unsqueeze(1) - self.keys[candidate]).square().sum(dim=2).sqrt()
        distance = distance.masked_fill(value.gather(1, order).isinf(), torch.inf)
        index, distance = _first(candidate, distance, k)
        if n_candidates < len(self):
            # Entries that were no candidates may be as near as the last one chosen, within the error of the products.
            error = 4 * _PRODUCT_ERROR * centered.norm(dim=1) * square.max().sqrt()
            unsure = (value[:, -1] - value[:, k - 1] <= error) & value[:, -1].isfinite()
            rows = unsure.nonzero().squeeze(1)
            for part in rows.split(max(len(rows) // 4, 16)):
                exact = torch.cdist(queries[part], self.keys, compute_mode="donot_use_mm_for_euclid_dist")
                if banned is not None:
                    exact.masked_fill_(banned[part], torch.inf)
                everything = torch.arange(len(self), device=index.device).expand(len(part), -1)
                index[part], distance[part] = _first(everything, exact, k)
        return index, distance


def _first(candidate: Tensor, distance: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of candidates in the order of the bank, padded where there are fewer."""
    distance, order = distance.sort(dim=1, stable=True)
    index = candidate.gather(1, order)[:, :k]
    distance = distance[:, :k]
    index = index.masked_fill(distance.isinf(), 0)
    missing = k - index.shape[1]
    if missing > 0:
        index = torch.nn.functional.pad(index, (0, missing))
        distance = torch.nn.functional.pad(distance, (0, missing), value=torch.inf)
    return index, distance
