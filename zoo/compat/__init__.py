"""Drop-ins for those who come from other toolkits; each is a module of its own, imported by name."""
