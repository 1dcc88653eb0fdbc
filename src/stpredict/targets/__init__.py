"""What to predict, as users ask for it: expression, counts, classes of observations, or the follow-up of patients."""

from stpredict.targets._requests import Classes, Counts, Expression, FollowUp

__all__ = ["Classes", "Counts", "Expression", "FollowUp"]
