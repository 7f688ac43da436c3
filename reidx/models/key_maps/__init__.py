"""Layouts of foreign weight files: maps from the names of other projects to those of the networks that reidx builds."""

from reidx.models.key_maps.chain import Translated, suggest_model, translate
from reidx.models.key_maps.names import Rename, by_patterns, prefix_of
from reidx.models.key_maps.report import LoadReport

__all__ = ["LoadReport", "Rename", "Translated", "by_patterns", "prefix_of", "suggest_model", "translate"]
