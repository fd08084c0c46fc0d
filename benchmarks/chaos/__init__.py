"""Chaos: whatever can go wrong, one thing after the other, under load; then all is checked."""
