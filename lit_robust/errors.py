"""The one exception that the command line turns into a single line instead of a traceback."""


class UserError(ValueError):
    """A mistake of the user's: what was expected, what came, how to mend it."""
