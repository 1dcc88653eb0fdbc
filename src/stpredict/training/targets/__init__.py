"""What networks are trained to predict: expression, counts, values, classes, or the follow-up of patients."""

from stpredict.training.targets._classes import ClassTarget
from stpredict.training.targets._counts import CountsTarget
from stpredict.training.targets._expression import ExpressionTarget
from stpredict.training.targets._follow_up import FollowUpTarget
from stpredict.training.targets._target import Target, target_from_dict
from stpredict.training.targets._values import ValueTarget

__all__ = [
    "ClassTarget", "CountsTarget", "ExpressionTarget", "FollowUpTarget", "Target", "ValueTarget", "target_from_dict",
]  # fmt: skip
