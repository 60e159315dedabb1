"""Tensors in, numbers out, each with its chance level."""
