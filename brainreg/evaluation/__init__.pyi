from .accuracy import robust_accuracy as robust_accuracy
from .page import write_report as write_report
from .robustness import Robustness as Robustness
from .robustness import evaluate as evaluate
from .settings import Evaluation as Evaluation
