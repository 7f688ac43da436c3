"""Every refusal before training, in the order in which it can be told."""
