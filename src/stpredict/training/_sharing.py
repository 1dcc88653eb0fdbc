"""How fitted models leave the package, and come from elsewhere: programs of torch, and the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stpredict.core._optional import optional_import

if TYPE_CHECKING:
    from typing import Self

    import pandas as pd

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ["*.json", "*.safetensors", "*.tsv", "*.csv", "README.md", "baselines/*"]


class Shared:
    """What :class:`stpredict.training.FittedModel` does to be used elsewhere."""

    def export(self, path: str | Path, *, scores: pd.DataFrame | None = None, license: str | None = None) -> Path:
        """Write the model as a program of torch, which runs where this package is not installed, with a model card.

        The program takes the inputs of all observations of one section or slide, as they are, and returns values in the unit of the
        training target, for two observations or more; `names.json` in its archive names the outputs. It is
        compared with the network before it is written. Networks that read features, positions in µm or patches can be
        exported; standard deviations and baselines are not part of it.

        Parameters
        ----------
        path
            Directory; an export that is there is replaced, any other directory with files in it is an error.
        scores
            Table of scores for the card, at most 60 rows, as of :func:`stpredict.tl.summarize`.
        license
            License of the weights for the card, as the Hugging Face hub spells it, such as `"bsd-3-clause"`.

        Returns
        -------
        The directory, with `model.pt2` (see :func:`torch.export.load`) and `README.md`, the model card.

        Raises
        ------
        TypeError
            When the network reads something else, or draws samples.
        RuntimeError
            When torch cannot trace the network, or what it traced predicts other values.
        ValueError
            When the table of scores has more rows.
        FileExistsError
            When the directory holds other files.
        OSError
            When it cannot be written.

        Examples
        --------
        >>> import stpredict as stp, torch
        >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=20)
        >>> stp.pp.image_features(adata)
        >>> stp.pp.normalize(adata)
        >>> model = stp.tl.fit(adata, "ridge", adata.obs["patient"] == "P1")
        >>> path = model.export("exported")
        >>> program = torch.export.load(path / "model.pt2").module()
        >>> section = adata[adata.obs["sample"] == "P2_S1"]
        >>> program(torch.tensor(section.obsm["X_color-texture"])).shape
        torch.Size([60, 20])
        """
        from stpredict.training._export import export_model

        return export_model(self, path, scores, license)  # type: ignore[arg-type]

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = True,
        scores: pd.DataFrame | None = None,
        license: str | None = None,
        token: str | None = None,
        message: str = "Add model",
    ) -> str:
        """Put the model and its card into a repository of the Hugging Face hub, which is made where there is none.

        `config.json` names the training patients and sections as the object does, so that predictions for them can be
        marked. Recode them before training where these names must not leave your site.

        Parameters
        ----------
        repository
            `"owner/name"`.
        private
            Whether a new repository is private.
        scores, license
            For the card, as in :meth:`export`.
        token
            Access token; the one that `hf auth login` stored when `None`.
        message
            Commit message.

        Returns
        -------
        Address of the repository.

        Raises
        ------
        ValueError
            When `repository` is no `"owner/name"`, or the table of scores has more than 60 rows.
        ConnectionError
            When the hub cannot be reached, or refuses.
        ImportError
            When huggingface_hub is not installed (extra `encoders`).
        """
        from stpredict.training._card import model_card

        if not _REPOSITORY.fullmatch(repository):
            raise ValueError(f"expected a repository 'owner/name'; found {repository!r}")
        hub = optional_import("huggingface_hub", "encoders")
        use = f'from stpredict.training import FittedModel\n\nmodel = FittedModel.from_pretrained("{repository}")'
        card = model_card(self, use=use, scores=scores, license=license)  # type: ignore[arg-type]
        with TemporaryDirectory() as folder:
            directory: Path = self.save(Path(folder) / "model")  # type: ignore[attr-defined]
            (directory / "README.md").write_text(card, encoding="utf-8")
            try:
                api = hub.HfApi(token=token)
                address = str(api.create_repo(repository, private=private, exist_ok=True))
                api.upload_folder(
                    repo_id=repository, folder_path=directory, commit_message=message, delete_patterns=_FILES
                )
            except _hub_errors() as error:
                raise ConnectionError(
                    f"expected to write {repository!r} on the Hugging Face hub; found: {_first_line(error)}; connect, unset "
                    "HF_HUB_OFFLINE, log in with `hf auth login`, or keep the model with model.save(path)"
                ) from error
        return address

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> Self:
        """Read a model from a directory, or from a repository of the Hugging Face hub.

        As with :meth:`FittedModel.load` nothing is unpickled.

        Parameters
        ----------
        source
            Directory of a saved model, or `"owner/name"` on the hub.
        revision
            Branch, tag or commit on the hub.
        token
            Access token; the one that `hf auth login` stored when `None`.
        cache_dir
            Where the hub keeps what it downloaded; its own cache when `None`.

        Returns
        -------
        The model.

        Raises
        ------
        FileNotFoundError
            When there is no such directory, and no such repository can be reached or is in the cache.
        ValueError
            When a file is damaged, or the parts do not belong together.
        ImportError
            When huggingface_hub is not installed (extra `encoders`).

        Examples
        --------
        >>> import stpredict as stp
        >>> from stpredict.training import FittedModel
        >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=20)
        >>> stp.pp.image_features(adata)
        >>> stp.pp.normalize(adata)
        >>> _ = stp.tl.fit(adata, "ridge", adata.obs["patient"] == "P1", path="models/ridge")
        >>> FittedModel.from_pretrained("models/ridge")
        FittedModel('ridge', 20 genes, trained on 60 observations of 1 patient)
        """
        if Path(source).is_dir():
            return cls.load(source)  # type: ignore[attr-defined]
        if not _REPOSITORY.fullmatch(str(source)):
            raise FileNotFoundError(
                f"expected the directory of a saved model, or 'owner/name' on the hub; found {str(source)!r}"
            )
        hub = optional_import("huggingface_hub", "encoders")
        try:
            folder = hub.snapshot_download(
                str(source), revision=revision, token=token, cache_dir=cache_dir, allow_patterns=_FILES
            )
        except _hub_errors() as error:
            raise FileNotFoundError(
                f"expected a model at {str(source)!r}, a directory or a repository of the Hugging Face hub; found neither: "
                f"{_first_line(error)}; connect, or download the repository elsewhere and pass its directory"
            ) from error
        with TemporaryDirectory() as plain:  # the hub's cache is made of links, which no model may be
            return cls.load(copytree(folder, Path(plain) / "model"))  # type: ignore[attr-defined]


def _hub_errors() -> tuple[type[Exception], ...]:
    """What the hub raises when it cannot be reached or refuses."""
    errors: Any = optional_import("huggingface_hub.errors", "encoders")
    return (
        errors.HfHubHTTPError,
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        ConnectionError,
        OSError,
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
