"""Networks beside the conventional reconstruction: which goes first, who runs it, how long it is waited for."""
