"""Training and evaluation of experiments, on mmengine."""
