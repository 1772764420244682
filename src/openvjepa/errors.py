"""Errors written for the person at the keyboard: the command line prints their text as one line and exits with 1."""


class OpenVJEPAError(Exception):
    """Base of every error this package raises on purpose; the message says what is wrong and what to do."""


class ConfigError(OpenVJEPAError):
    """A setting is unknown, of the wrong type, or impossible together with another."""


class DataError(OpenVJEPAError):
    """A list of videos cannot be used: missing, empty, malformed, or with too many unreadable files."""


class VideoError(OpenVJEPAError):
    """One video file cannot be read.

    Args:
        path: the file.
        reason: why, in a few words without the path.
    """

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # crosses the border of a loader's worker process
        return VideoError, (self.path, self.reason)


class CheckpointError(OpenVJEPAError):
    """A checkpoint is missing, damaged, or does not belong to the model at hand."""
