"""Frozen base models: what no user changes is computed once."""
