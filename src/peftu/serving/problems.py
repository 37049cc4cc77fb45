"""What a request is refused with: a status, and one line that names no user and no text."""

import logging
from pathlib import Path

from peftu.errors import PeftuError

_log = logging.getLogger("peftu.serving")


class RefusedError(PeftuError):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: what is wrong, and the mend.
        retry_after: seconds after which it may come again, if it may.
        places: which users of the request are not known.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None, places: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.status, self.retry_after, self.places = status, retry_after, places


def refused(error: PeftuError, place: Path) -> RefusedError:
    """Returns what whoever asked is told of an error; no file that is served is named to them.

    Args:
        error: one line, which may name files.
        place: the folder.
    """
    if isinstance(error, RefusedError):
        return error
    if str(place) in str(error):
        _log.error("%s", error)
        return RefusedError(503, "what is kept here cannot be used — see the service's log")
    return RefusedError(422, str(error))
