"""How the weights were made. The service never imports this; ``isocenter models train`` starts it as a program."""
