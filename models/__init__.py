"""Networks, each with a card that says what it is for and what it is not for."""
