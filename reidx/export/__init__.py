"""Trained networks in the forms of other programs: ONNX, torch's programs, folders of weights."""
