"""The one error that is the user's to mend."""


class UserError(Exception):
    """One clear line about what the user got wrong and what to do; the process exits with 1."""
