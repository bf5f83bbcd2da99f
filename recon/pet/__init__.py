"""PET: from coincidences to Bq/mL."""
