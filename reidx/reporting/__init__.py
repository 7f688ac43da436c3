"""Output of a run while it trains: progress, displays, forecast, curves."""
