"""Other projects' interfaces over Cupola's models, so that a script changes one import."""
