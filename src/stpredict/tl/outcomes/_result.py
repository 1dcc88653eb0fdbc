"""What nested cross-validation of an outcome found, and the model that goes to another cohort."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stpredict.core._atomic import write_directory
from stpredict.core._turns import tidy

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.training import FittedModel

_MARKER, _TABLES = "config.json", ("scores", "predictions", "history")


@dataclass(frozen=True)
class OutcomeResult:
    """What :func:`stpredict.tl.fit_outcome` returns.

    Attributes
    ----------
    scores
        One row per model; the first is the network (`"convnext"` by default), all others are baselines.
    predictions
        Out of fold, one row per slide and one column per model: log risk, or probability of the second class.
    history
        One row per epoch, inner fold (-1: the fit on all inner folds) and outer fold of the network (-1: the fit on all
        patients).
    model
        The models fitted on all patients, for :func:`stpredict.tl.predict_outcome`; no score is of them. Its
        `training.extra` holds what the maps show, the coding of the covariates, and the linear baselines.
    """

    scores: pd.DataFrame
    predictions: pd.DataFrame
    history: pd.DataFrame
    model: FittedModel

    def save(self, path: str | Path) -> Path:
        """Write the model and the tables to a directory.

        Everything is written beside the target first and then moved into place, so that an interrupted save leaves the
        earlier result, or none.

        Parameters
        ----------
        path
            Directory; a result that is there is replaced, any other directory with files in it is an error.

        Returns
        -------
        The directory, with the files of :meth:`stpredict.training.FittedModel.save`, `scores.csv`, `predictions.csv`
        and `history.csv`.

        Raises
        ------
        FileExistsError
            When the directory holds files but no model.
        """
        return write_directory(Path(path), _MARKER, self._write)

    def _write(self, directory: Path) -> None:
        from stpredict.training._digests import add_digests

        self.model.write(directory)
        self.scores.to_csv(directory / "scores.csv", index=False)
        self.predictions.to_csv(directory / "predictions.csv", index_label="slide")
        self.history.to_csv(directory / "history.csv", index=False)
        add_digests(directory, [f"{table}.csv" for table in _TABLES])

    @classmethod
    def load(cls, path: str | Path) -> OutcomeResult:
        """Read a result that :meth:`save` wrote; nothing is unpickled.

        Parameters
        ----------
        path
            The directory.

        Returns
        -------
        The result.

        Raises
        ------
        FileNotFoundError
            When there is no such result in the directory.
        ValueError
            When a file is damaged or truncated, or the parts do not belong together.
        """
        import pandas as pd

        from stpredict.training import FittedModel
        from stpredict.training._digests import check_files, read_config

        path = Path(path)
        tidy(path, wait=not (path / _MARKER).is_file())
        for name in (_MARKER, *(f"{table}.csv" for table in _TABLES)):
            if not (path / name).is_file():
                raise FileNotFoundError(
                    f"expected a saved outcome in {path}; found no {name}; save one with OutcomeResult.save"
                )
        model = FittedModel.load(path)
        check_outcome_model(model, str(path))
        check_files(path, [f"{table}.csv" for table in _TABLES], read_config(path)["files"])
        try:
            scores, predictions, history = (
                # A slide may have any name, "NA" among them.
                pd.read_csv(path / f"{name}.csv", float_precision="round_trip", converters={"slide": str})
                for name in _TABLES
            )
        except ValueError as error:
            raise ValueError(f"expected complete tables in {path}; found damaged ones ({error})") from error
        return cls(scores, predictions.set_index("slide").rename_axis(None), history, model)


def check_outcome_model(model: FittedModel, where: str) -> None:
    """Raise `ValueError` unless a model is one of an outcome from maps."""
    missing = {"maps", "clinical", "linear", "leaky_covariates"} - set(model.training.extra)
    if missing:
        raise ValueError(
            f"expected an outcome of stp.tl.fit_outcome in {where}; found a model without {', '.join(sorted(missing))}; "
            "models of stp.tl.fit are used by stp.tl.predict"
        )
