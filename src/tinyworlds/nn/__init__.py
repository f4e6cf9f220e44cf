"""Building blocks, each in one file: attention, feed-forward, norms, positions, patches, FSQ, transformer, motion."""
