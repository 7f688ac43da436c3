"""Networks: backbones, pooling, normalisation, teachers."""
