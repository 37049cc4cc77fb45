"""Tiny bases, made-up users and the shared checks, for the tests of peftu and of packages that add to it."""

from peftu.testing.bases import (
    CPU,
    FAMILIES,
    flan_t5_base,
    load_tiny,
    randomise,
    tiny_base,
    tiny_model,
    tiny_tokenizer,
)
from peftu.testing.joint_methods import check_joint_method
from peftu.testing.methods import check_method, regions_of
from peftu.testing.problems import tiny_prompt, tiny_texts, tiny_units

__all__ = [
    "CPU",
    "FAMILIES",
    "check_joint_method",
    "check_method",
    "flan_t5_base",
    "load_tiny",
    "randomise",
    "regions_of",
    "tiny_base",
    "tiny_model",
    "tiny_prompt",
    "tiny_texts",
    "tiny_tokenizer",
    "tiny_units",
]
