"""What searches keep on disk or in S3, and how it is read again.

One writer a file, each replaced as a whole. Nothing here knows Ray or Optuna.
"""
