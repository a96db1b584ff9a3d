"""What the bound is good for: ranking and classifying images, comparing models."""
