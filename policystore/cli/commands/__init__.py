"""Define the commands, in groups; an import of a module of this package registers its commands."""
