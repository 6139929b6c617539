"""fedlab_helpers: simulate personalised federated learning on one machine.

The order to read it in: `algorithms/base.py`, `train.py`, any algorithm, `data.py`, `model.py`,
`engine.py`.
"""

from .algorithms import (
    APFL,
    DPSGD,
    IFCA,
    L2SP,
    MOCHA,
    SCAFFOLD,
    Cohort,
    CoordinateMedian,
    Ditto,
    DPFedAvg,
    FedALA,
    FedAsync,
    FedAvg,
    FedBABU,
    FedBN,
    FedBuff,
    FedDF,
    FedEM,
    FedEWC,
    FedMD,
    FedNova,
    FedOpt,
    FedPer,
    FedProto,
    FedProx,
    FedRep,
    FineTuning,
    Krum,
    LGFedAvg,
    Local,
    MeanRegularised,
    PerFedAvg,
    Personal,
    PFedMe,
    PFedRec,
    Pooled,
    QFedAvg,
    Reptile,
    TrimmedMean,
    average,
    distil,
)
from .data import Batch, Examples, Federation, LocalData
from .engine import Diverged, repeat, simulate
from .experiment import Comparison, compare, grid, tune, tune_both
from .history import History
from .model import (
    Model,
    Score,
    accuracy,
    binary_accuracy,
    binary_cross_entropy,
    cross_entropy,
    gradient,
    rmse,
    squared_error,
)
from .networks import cnn, linear, mlp
from .optimisers import SGD, Adam, Adaptive
from .schedule import Buffered, Synchronous
from .train import Proximal, train

__version__ = "0.1.0"
