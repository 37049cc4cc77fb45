"""Whatever was fitted, asked over HTTP: many users in one batch, each answered by their own module or not at all."""
