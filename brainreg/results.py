"""What notebooks imported from here before there was `brainreg.records`."""

from brainreg.records.results import load_results
from brainreg.records.results import rank_trials as ranked
from brainreg.records.searches import load_searches

__all__ = ["load_results", "load_searches", "ranked"]
