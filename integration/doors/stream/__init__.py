"""The raw stream: one small protocol over ZeroMQ by which an MRI, CT or PET scanner sends and hears."""
