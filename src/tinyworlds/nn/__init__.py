"""Building blocks, a file each."""
