"""The algorithms, one file per family."""

from .asynchronous import FedAsync, FedBuff
from .base import Cohort, FedAvg, Personal, average
from .clustered import IFCA, FedEM
from .continual import FedEWC
from .distillation import FedDF, FedMD, FedProto, distil
from .global_model import L2SP, SCAFFOLD, FedNova, FedOpt, FedProx, Pooled, QFedAvg
from .meta import PerFedAvg, Reptile
from .personal import (
    APFL,
    MOCHA,
    Ditto,
    FedALA,
    FedBABU,
    FedBN,
    FedPer,
    FedRep,
    FineTuning,
    LGFedAvg,
    Local,
    MeanRegularised,
    PFedMe,
)
from .private import DPSGD, DPFedAvg
from .recommender import PFedRec
from .robust import CoordinateMedian, Krum, TrimmedMean

__all__ = [
    "APFL",
    "DPSGD",
    "IFCA",
    "L2SP",
    "MOCHA",
    "SCAFFOLD",
    "Cohort",
    "CoordinateMedian",
    "DPFedAvg",
    "Ditto",
    "FedALA",
    "FedAsync",
    "FedAvg",
    "FedBABU",
    "FedBN",
    "FedBuff",
    "FedDF",
    "FedEM",
    "FedEWC",
    "FedMD",
    "FedNova",
    "FedOpt",
    "FedPer",
    "FedProto",
    "FedProx",
    "FedRep",
    "FineTuning",
    "Krum",
    "LGFedAvg",
    "Local",
    "MeanRegularised",
    "PFedMe",
    "PFedRec",
    "PerFedAvg",
    "Personal",
    "Pooled",
    "QFedAvg",
    "Reptile",
    "TrimmedMean",
    "average",
    "distil",
]
