"""Fast array operations: arrays in, arrays out; knows nothing of scanners."""
