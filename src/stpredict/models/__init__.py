"""Networks: tensors in, tensors out."""

from stpredict.models._base import Batch, Prediction, Predictor, Summary
from stpredict.models._color import Color
from stpredict.models._mean import Mean
from stpredict.models._mlp import MLP
from stpredict.models._registry import ModelInfo, get_model, list_models, register
from stpredict.models._ridge import Ridge
from stpredict.models._stnet import STNet

__all__ = [
    "MLP",
    "Batch",
    "Color",
    "Mean",
    "ModelInfo",
    "Prediction",
    "Predictor",
    "Ridge",
    "STNet",
    "Summary",
    "get_model",
    "list_models",
    "register",
]
