"""The trainer program: it reads an order and writes events and an adapter. Only it uses trl."""
