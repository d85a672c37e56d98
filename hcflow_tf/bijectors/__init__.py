"""The flow layers: tfp bijectors over weights or networks they are handed; no Keras here."""

from hcflow_tf.bijectors.actnorm import ActNorm
from hcflow_tf.bijectors.base import FlowBijector
from hcflow_tf.bijectors.conditional_gaussian import ConditionalGaussian
from hcflow_tf.bijectors.coupling import (
    AffineCoupling,
    ConditionalAffineCoupling,
    LowFrequencyAffineCoupling,
    LowFrequencyShiftCoupling,
)
from hcflow_tf.bijectors.flow_step import ConditionalFlowStep, FlowStep
from hcflow_tf.bijectors.hierarchical_flow import FlowLevel, HierarchicalFlow
from hcflow_tf.bijectors.invertible_conv import InvertibleConv1x1
from hcflow_tf.bijectors.squeeze import Haar, Squeeze

__all__ = [
    "ActNorm",
    "AffineCoupling",
    "ConditionalAffineCoupling",
    "ConditionalFlowStep",
    "ConditionalGaussian",
    "FlowBijector",
    "FlowLevel",
    "FlowStep",
    "Haar",
    "HierarchicalFlow",
    "InvertibleConv1x1",
    "LowFrequencyAffineCoupling",
    "LowFrequencyShiftCoupling",
    "Squeeze",
]
