"""What quantized keys and values do to vectors, attention rows and outputs."""
