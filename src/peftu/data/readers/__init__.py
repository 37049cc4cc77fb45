"""Files as people have them: each reader knows one layout, and yields rows with named columns."""
