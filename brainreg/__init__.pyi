from .evaluation.accuracy import robust_accuracy as robust_accuracy
from .evaluation.robustness import evaluate as evaluate
from .evaluation.settings import Evaluation as Evaluation
from .hyperparameters import Hyperparameters as Hyperparameters
from .method.loss import similarity_loss as similarity_loss
from .method.pairs import select_pairs as select_pairs
from .method.sampler import PairSampler as PairSampler
from .method.similarity import boosted_targets as boosted_targets
from .method.similarity import pixel_similarity as pixel_similarity
from .models.build import build_model as build_model
from .models.logits import as_logits as as_logits
from .records.results import load_results as load_results
from .records.results import rank_trials as rank_trials
from .records.searches import load_searches as load_searches
from .training.checkpoint import load_classifier as load_classifier
from .training.data import load_training_data as load_training_data
from .training.export import load_exported as load_exported
from .training.loop import train as train

__version__: str
