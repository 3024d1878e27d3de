"""Names of the settings that are compared: unregularized, early-stopped, published, found."""

from enum import StrEnum


class SettingName(StrEnum):
    """The name of a setting, as files have it: of a control, of the found one, or none where a sampler proposed it.

    Attributes:
        PROPOSED: the sampler proposed it; an empty text in files.
        PUBLISHED, UNREGULARIZED: run before any is proposed.
        EARLY_STOPPED: the unregularized setting, but its best epoch is the one with the largest objective: what
            stopping earlier gives.
        LIKE_FOUND: a confirmation's control where a space searches more than the regularizer: the found setting
            without its regularizer.
        FOUND: the best of the proposed ones, in a confirmation.
    """

    PROPOSED = ""
    PUBLISHED = "published"
    UNREGULARIZED = "unregularized"
    EARLY_STOPPED = "early_stopped"
    LIKE_FOUND = "unregularized_like_found"
    FOUND = "found"


PROPOSED, PUBLISHED, UNREGULARIZED, EARLY_STOPPED, LIKE_FOUND, FOUND = SettingName

# The settings that the table compares, in its order.
SETTINGS = (UNREGULARIZED, EARLY_STOPPED, PUBLISHED, FOUND)

_SHOWN: dict[str, str] = {
    EARLY_STOPPED: "unregularized, epoch by objective",
    LIKE_FOUND: "unregularized, otherwise as found",
}


def shown_name(setting: str) -> str:
    """Return what people read for the name of a setting."""
    return _SHOWN.get(setting, setting)
