"""How accurate and how robust a network is: clean, under noise, corruptions and attacks.

Intervals, signs that a number is wrong, and the page that shows it.
"""

from brainreg.evaluation.accuracy import robust_accuracy
from brainreg.evaluation.robustness import Robustness, evaluate
from brainreg.evaluation.settings import Evaluation

__all__ = ["Evaluation", "Robustness", "evaluate", "robust_accuracy"]
