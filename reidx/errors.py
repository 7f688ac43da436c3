"""What the user is told when something they gave is wrong: one message, no traceback."""


class ReidxError(Exception):
    """A mistake in what was given (config, data, plugin, file); its message says what, where and what to do.

    The command line prints the message alone (the traceback only under ``--debug``) and exits with 2.
    """


class ConfigError(ReidxError):
    """The experiment's configuration is wrong: unknown key, wrong type, parts that do not fit each other."""


class DataError(ReidxError):
    """A data set is missing, empty, corrupt or cannot be evaluated as asked."""


class PluginError(ReidxError):
    """A plugin could not be found, loaded or used."""


class CheckpointError(ReidxError):
    """A checkpoint is missing, damaged, of another shape, or belongs to another run."""
