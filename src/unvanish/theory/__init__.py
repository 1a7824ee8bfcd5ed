"""What can be worked out without a network: chains of one neuron a layer, and wide random networks in the mean."""

from unvanish.theory.activations import Activation, activation, activations
from unvanish.theory.chain import Chain, chain
from unvanish.theory.products import Scaled, running_product

__all__ = ["Activation", "Chain", "Scaled", "activation", "activations", "chain", "running_product"]
