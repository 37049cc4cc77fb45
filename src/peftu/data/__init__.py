"""From raw files to user tables, splits and problems. Nothing here needs torch."""
