"""Pieces that methods share, as pure functions where they can be: advantages, rewards, KL, filters, offline fitting."""
