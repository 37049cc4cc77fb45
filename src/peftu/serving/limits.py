"""What one request, and all that wait, may ask at most."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a service.

    Attributes:
        body_bytes: of one request.
        users: in one request.
        inputs: texts in one request.
        characters: of one text with its context.
        key_characters: of a user's key.
        examples: in one enrolment.
        pairs: of users and texts in one request.
        waiting: pairs of all requests that wait; beyond, a request is told to come again.
        batch_pairs: pairs that are read at once.
        batch_requests: requests that are read at once; 1: no micro-batches.
        changes: enrolments and deletions that wait.
        seconds: after which a request that still waits is given up.
        upload_seconds: in which a request's body must be here.
        resident_bytes: of module rows that stay in memory.
        text_bytes: of what the base makes of texts that stays in memory, for each prompt and region.
    """

    body_bytes: int = 4 << 20
    users: int = 10_000
    inputs: int = 1_000
    characters: int = 100_000
    key_characters: int = 1_000
    examples: int = 10_000
    pairs: int = 100_000
    waiting: int = 200_000
    batch_pairs: int = 4096
    batch_requests: int = 1024
    changes: int = 1_000
    seconds: float = 60.0
    upload_seconds: float = 30.0
    resident_bytes: int = 1 << 30
    text_bytes: int = 128 << 20
