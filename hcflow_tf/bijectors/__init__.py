"""The flow layers: tfp bijectors over weights or networks they are handed; no Keras here."""

from hcflow_tf.bijectors.affine_injector import AffineInjector
from hcflow_tf.bijectors.base import FlowBijector
from hcflow_tf.bijectors.conditional_gaussian import ConditionalGaussian
from hcflow_tf.bijectors.coupling import AffineCoupling, ConditionalAffineCoupling, InvertibleBlock, ShiftCoupling
from hcflow_tf.bijectors.flow_step import ConditionalFlowStep, FlowStep
from hcflow_tf.bijectors.hierarchical_flow import FlowLevel, HierarchicalFlow
from hcflow_tf.bijectors.linear import Linear
from hcflow_tf.bijectors.squeeze import Squeeze

__all__ = [
    "AffineCoupling",
    "AffineInjector",
    "ConditionalAffineCoupling",
    "ConditionalFlowStep",
    "ConditionalGaussian",
    "FlowBijector",
    "FlowLevel",
    "FlowStep",
    "HierarchicalFlow",
    "InvertibleBlock",
    "Linear",
    "ShiftCoupling",
    "Squeeze",
]
