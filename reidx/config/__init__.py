"""The form of an experiment: YAML with origins, bases, overrides, the schema and its defaults."""
