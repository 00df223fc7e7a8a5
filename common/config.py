"""Configuration machinery: composing, validating, and messages a user can act on."""


class ConfigError(ValueError):
    """A mistake in what the user wrote; its message is shown without a traceback."""
