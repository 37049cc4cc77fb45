"""The command line: what a person types, and nothing that a library would need."""

from peftu.cli.app import main

__all__ = ["main"]
