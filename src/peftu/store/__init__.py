"""Where people's modules are kept: immutable safetensors shards and an SQLite index, committed whole.

A shard holds the module rows of many users as one matrix; the index says whose row is where. A write is shards under
new names, then one short transaction: a reader sees all of it or nothing, and nobody waits while numbers are written.
A shard that the index does not know is nobody's once the process that wrote it has let go of it. A user's key stands in
the index only, never in a path. Nothing is ever unpickled.
"""

from peftu.store.collection import EVERYONE, Collection, recipe
from peftu.store.int8 import rounded
from peftu.store.shards import checksum
from peftu.store.store import AdapterStore, is_store
from peftu.store.versions import APPROVED, QUARANTINED, REVOKED, Status, Version

__all__ = [
    "APPROVED",
    "EVERYONE",
    "QUARANTINED",
    "REVOKED",
    "AdapterStore",
    "Collection",
    "Status",
    "Version",
    "checksum",
    "is_store",
    "recipe",
    "rounded",
]
