"""Loaders: one module a format, each `load(path, config) -> BertWeights`."""
