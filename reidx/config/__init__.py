"""Config files: YAML with origins, base files, overrides, the schema and its defaults."""
