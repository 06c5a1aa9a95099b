"""`python -m scotopic` is the command line."""

from scotopic.cli import app

app(prog_name="scotopic")
