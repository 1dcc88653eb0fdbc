"""One training loop for every network, and what it leaves behind."""

from stpredict.training._auxiliary import with_primary
from stpredict.training._config import TrainConfig
from stpredict.training._data import ArraySet, WholeSections
from stpredict.training._facts import TrainingFacts
from stpredict.training._fit_arrays import Fit, fit_arrays, train_config, untrained
from stpredict.training._fitted import FittedModel
from stpredict.training._loader import Loader
from stpredict.training._predict_arrays import Predicted, predict_arrays
from stpredict.training._published import load_published
from stpredict.training._ragged import Ragged

__all__ = [
    "ArraySet",
    "Fit",
    "FittedModel",
    "Loader",
    "Predicted",
    "Ragged",
    "TrainConfig",
    "TrainingFacts",
    "WholeSections",
    "fit_arrays",
    "load_published",
    "predict_arrays",
    "train_config",
    "untrained",
    "with_primary",
]
