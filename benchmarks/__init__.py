"""What the targets of speed and memory are measured with; each module runs by `python -m benchmarks.NAME`."""
