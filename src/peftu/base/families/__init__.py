"""The three kinds of base: decoder, encoder, encoder-decoder."""
