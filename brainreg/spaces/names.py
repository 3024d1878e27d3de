"""What the settings are called that are compared: unregularized, published, found."""

# Settings that a search runs before Optuna proposes any. Their names mark the trials in the results.
PUBLISHED, UNREGULARIZED = "published", "unregularized"


# The unregularized setting, but its best epoch is the one with the largest objective: what stopping earlier gives.
EARLY_STOPPED = "early_stopped"


# A confirmation's control where a space searches more than the regularizer: the found setting without its regularizer.
LIKE_FOUND = "unregularized_like_found"


_SHOWN = {
    EARLY_STOPPED: "unregularized, epoch by objective",
    LIKE_FOUND: "unregularized, otherwise as found",
}


def shown_name(setting: str) -> str:
    """Return what people read for the name of a setting."""
    return _SHOWN.get(setting, setting)


# What `setting` is of a trial that Optuna proposed; the best of them is the one that a search found.
PROPOSED, FOUND = "", "found"


# The settings that the table compares, in its order.
SETTINGS = (UNREGULARIZED, EARLY_STOPPED, PUBLISHED, FOUND)
