"""Export: a network in, ONNX files that compute the same function out."""
