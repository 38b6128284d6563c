#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Answers questions with a packed engine, or scores it on SQuAD. The engine tells its layout, the rest is inference.py's."""

from helpers.commands import process
from inference import main

if __name__ == "__main__":
    process.main(main)
