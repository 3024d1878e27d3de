"""A search: planned, run on Ray's workers, with settings that Optuna proposes.

This package and `confirmation` alone know Ray.
"""
