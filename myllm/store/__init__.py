"""What is on disk: the catalogue of known models, the files that are installed, and what their headers say."""
