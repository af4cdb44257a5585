"""What turns a request into a result: one module a model."""
