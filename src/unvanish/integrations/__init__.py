"""What plugs unvanish into other programs. Each module imports the public names alone, and nothing here imports it."""
