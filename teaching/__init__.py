"""The site that teaches: figures drawn from the code itself, and what MkDocs makes of the pages in docs/."""
