"""Components and the plugins that bring them: names, signatures, construction, and calls into their code."""
