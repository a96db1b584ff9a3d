"""What `nelbo train` does for each kind of model: its options, its recipe, and the end of a run."""
