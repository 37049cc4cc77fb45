"""Runs the command line as ``python -m peftu``."""

from peftu.cli import main

main()
