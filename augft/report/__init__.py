"""A run directory → one self-contained HTML page, pictures, and words for the terminal."""
