"""One small module per person on a frozen language model: train, judge, keep and ask them together.

Importing this package is cheap (no torch); the rooms are imported by name, for example
``from peftu.data.table import UserTable``.
"""

__version__ = "0.1.0"
