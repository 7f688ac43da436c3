"""One self-contained HTML page about one run or several: sections, charts, tables, pictures only on request."""
