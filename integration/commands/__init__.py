"""The sub-commands of ``isocenter``: one module each, with ``EXAMPLES``, ``configure`` and ``run``."""
