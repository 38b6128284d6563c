"""Eight bits: which ranges tensors have, where they come from, and which weights are sparse."""
