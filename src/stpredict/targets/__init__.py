"""What to predict, as users ask for it: expression, counts, values, classes of observations, or the follow-up of patients."""

from stpredict.targets._requests import Classes, Counts, Expression, FollowUp, Values

__all__ = ["Classes", "Counts", "Expression", "FollowUp", "Values"]
