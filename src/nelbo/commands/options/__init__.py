"""What each command asks for: one module a command, of its name, without anything heavy."""
