"""Networks: tensors in, tensors out."""

from stpredict.models._bleep import BLEEP
from stpredict.models._color import Color
from stpredict.models._egn import EGN
from stpredict.models._he2rna import HE2RNA
from stpredict.models._hggep import HGGEP
from stpredict.models._hist import Hist
from stpredict.models._hist2st import Hist2ST
from stpredict.models._histogene import HisToGene
from stpredict.models._mclstexp import MclSTExp
from stpredict.models._mean import Mean
from stpredict.models._mlp import MLP
from stpredict.models._ridge import Ridge
from stpredict.models._sequoia import Sequoia
from stpredict.models._slide_transformer import SlideTransformer
from stpredict.models._stnet import STNet
from stpredict.models._thitogene import THItoGene
from stpredict.models.base._batch import Batch, Prediction, Summary
from stpredict.models.base._predictor import Predictor
from stpredict.models.base._registry import ModelInfo, get_model, list_models, register

__all__ = [
    "BLEEP",
    "EGN",
    "HE2RNA",
    "HGGEP",
    "MLP",
    "Batch",
    "Color",
    "HisToGene",
    "Hist",
    "Hist2ST",
    "MclSTExp",
    "Mean",
    "ModelInfo",
    "Prediction",
    "Predictor",
    "Ridge",
    "STNet",
    "Sequoia",
    "SlideTransformer",
    "Summary",
    "THItoGene",
    "get_model",
    "list_models",
    "register",
]
