"""Whatever was fitted: asked about any text, given new users, kept and opened again. One runner a kind of method."""
