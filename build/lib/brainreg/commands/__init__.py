"""The command lines. Each module has one `main`, and nothing else imports it."""
