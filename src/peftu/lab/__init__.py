"""What methods need and share: bases, contexts and embeddings, and what they cost."""
