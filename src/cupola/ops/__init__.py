"""Operators in plain torch, each differentiable and exportable."""
