"""Fast array operations: arrays in, arrays out; knows nothing of scanners.

``kernels.registry.kernel("centred_ifft")`` is the function that does the operation on this machine.
"""
