"""Looking into every pickle of a file, those included that `safe_load` never reads."""
