"""The engine: an experiment from its config to its result, on mmengine."""
