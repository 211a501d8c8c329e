"""What may run a stage: torch as it is, or a compiler.

A new one is a file here and a line in `table`, see docs/backends.md.
"""
