"""What the settings are called that are compared: unregularized, published, found."""

# Settings that a search runs before Optuna proposes any. Their names mark the trials in the results.
PUBLISHED, UNREGULARIZED = "published", "unregularized"


# The unregularized setting, but its best epoch is the one with the largest objective: what stopping earlier gives.
EARLY_STOPPED = "early_stopped"


def shown_name(setting: str) -> str:
    """Return what people read for the name of a given setting."""
    return "unregularized, epoch by objective" if setting == EARLY_STOPPED else setting


# What `setting` is of a trial that Optuna proposed; the best of them is the one that a search found.
PROPOSED, FOUND = "", "found"


# The settings that the table compares, in its order.
SETTINGS = (UNREGULARIZED, EARLY_STOPPED, PUBLISHED, FOUND)
