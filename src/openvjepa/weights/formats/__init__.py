"""Model files of others: Meta's, Hugging Face's, ONNX."""
