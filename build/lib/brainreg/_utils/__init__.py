"""Small helpers that know nothing of this project: flags, text, files, time limits."""
