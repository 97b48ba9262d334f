"""A family of policies without a VLM, to show what a family has to bring: this folder, and the line below."""

from vla_ros.policies.families import FAMILIES, Family

FAMILIES["Toy"] = Family("toy_family.config:ToyConfig", "toy_family.processor:ToyProcessor", "toy_family.policy:Toy")
