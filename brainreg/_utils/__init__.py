"""Small helpers below all other packages: flags, text, files, time limits."""
