"""augft: fine-tune an image classifier with data augmentation, on one machine or on a Ray cluster."""

__version__ = "0.1.0"
