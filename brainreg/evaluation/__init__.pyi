from .accuracy import robust_accuracy as robust_accuracy
from .robustness import Robustness as Robustness
from .robustness import evaluate as evaluate
from .settings import Evaluation as Evaluation
