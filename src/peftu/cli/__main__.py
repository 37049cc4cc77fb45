"""Runs the command line as ``python -m peftu.cli``."""

from peftu.cli.app import main

main()
