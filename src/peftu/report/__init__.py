"""What people read: the leaderboard in the terminal, and the report as one file that needs no network."""
