"""From a run's description to a finished run folder."""
