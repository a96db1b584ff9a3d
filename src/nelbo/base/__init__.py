"""What everything stands on: errors, files, suggestions, a search in one variable."""
