"""Ways to personalise: each written once, with a leading user axis."""
