"""Plain dense implementations of the papers' formulas, as references for the benchmarks and the tests."""
