"""Which augmentation helps: policies compared over seeds, and policies searched for."""
