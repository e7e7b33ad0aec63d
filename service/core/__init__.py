"""What the service decides, without I/O and without a framework: values in, values out."""
