"""The program that runs inside a habitat: order in, events and adapter out. Only it touches trl."""
