"""What came from the scanner, typed and corrected.

Read in this order: ``errors``, ``verdict``, ``geometry``, ``scan``, ``items``, ``stream``.
"""
