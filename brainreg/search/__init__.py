"""A search: planned, run on Ray's workers, with settings that a surrogate or one of Optuna's samplers proposes.

This package and `confirmation` alone know Ray.
"""
