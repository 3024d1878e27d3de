"""Which setting is best, and how sure that is, from the noisy runs of a search.

Here live the surrogate of the objective and the rules that recommend and propose by it. Neither Ray nor Optuna's study
is known here: runs come in as places in the space, seeds and values.
"""
