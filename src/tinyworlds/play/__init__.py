"""Playing a learned world."""
