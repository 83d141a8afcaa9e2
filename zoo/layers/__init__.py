"""Building blocks of the models: torch only, plain arguments, no configuration objects."""
