"""The families of generative models beside diffusion, fitted and evaluated on one scale.

Each is a `nelbo.chain.model.Model` that `fit` makes in one call. To add one, write a subclass of
`Family` in a module of its own and name it here.
"""

from nelbo.families.family import FAMILIES as FAMILIES
from nelbo.families.family import Family as Family
from nelbo.families.gan import GAN as GAN
from nelbo.families.hierarchical import HierarchicalVAE as HierarchicalVAE
from nelbo.families.hmm import HMM as HMM
from nelbo.families.lds import LDS as LDS
from nelbo.families.markov import MarkovModel as MarkovModel
from nelbo.families.ppca import PPCA as PPCA
from nelbo.families.rnn import RNN as RNN
from nelbo.families.ssm import SSM as SSM
from nelbo.families.vae import VAE as VAE
