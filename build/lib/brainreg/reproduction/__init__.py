"""A row of the published table found again: search, confirmation, notebooks, figures."""
