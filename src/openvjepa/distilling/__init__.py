"""Distillation: a small encoder learns the features of a large one."""
