"""The one kind of error that a user can mend."""


class InputError(Exception):
    """What the user gave cannot be used; the message is one line: what is wrong, where, and what to do."""
