"""The console: the HTTP interface and the page that people stand next to."""
