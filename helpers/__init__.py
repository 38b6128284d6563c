"""BERT question answering: checkpoints in, engines out, questions answered."""

__version__ = "0.1.0"
