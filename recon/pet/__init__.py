"""PET: from coincidences to activity."""
