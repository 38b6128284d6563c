"""What engines do besides answering questions: from the logits of texts to their labels, entities or vectors."""
