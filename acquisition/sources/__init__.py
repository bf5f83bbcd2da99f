"""Readers and writers of raw data: streams, files, virtual scanners."""
