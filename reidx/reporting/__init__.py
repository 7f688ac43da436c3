"""Output of a training run: progress, displays, forecast and curves."""
