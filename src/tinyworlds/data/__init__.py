"""From games, videos and public files to clips of frames."""
