"""Plain dense versions, written from the papers' formulas, that the benchmarks and the tests compare with."""
