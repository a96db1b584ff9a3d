"""How `nelbo train` follows a run in a terminal."""
