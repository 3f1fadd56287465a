"""Compiled operations on ragged batches of crystals, each with a torch reference."""
