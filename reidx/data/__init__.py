"""The data side: data sets, images, transforms, samplers."""
