"""Where scanners and people come in: the MRD server and client, the status page."""
