"""Errors that a user can mend."""


class PeftuError(Exception):
    """Raised for a bad input: the message names the file, row or field, and says how to mend it.

    The command line prints it as one line and exits with code 2. Anything else that is raised is a bug and
    keeps its traceback.
    """


class DivergedError(PeftuError):
    """Raised where training that all users share came to numbers that are not finite."""


class UnknownUserError(PeftuError):
    """Raised where nothing knows the user who is to be deleted: there was nothing to delete."""
