"""The files that a catalogue is written to, one module for each format."""
