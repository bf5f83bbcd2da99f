"""Virtual scanners: analytic objects, receive arrays, and exams that stream as a scanner does."""
