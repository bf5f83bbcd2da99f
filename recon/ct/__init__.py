"""CT reconstruction: filtered backprojection of axial and helical scans, slices in HU."""
