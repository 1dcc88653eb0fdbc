"""What to predict, as users ask for it: expression, values, classes of observations, or the follow-up of patients."""

from stpredict.targets._requests import Classes, Expression, FollowUp, Values

__all__ = ["Classes", "Expression", "FollowUp", "Values"]
