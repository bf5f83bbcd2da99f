"""DICOM out: objects, sending, the embedded archive."""
