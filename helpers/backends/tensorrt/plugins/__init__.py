"""Plugin libraries: what each can, and how its layers are added to a network."""
