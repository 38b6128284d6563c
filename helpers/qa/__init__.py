"""Questions and passages: windows over them, the best spans in their logits, SQuAD's files."""
