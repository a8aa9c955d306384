from .predictor import Prediction as Prediction
from .predictor import Predictor as Predictor
from .registry import Release as Release
from .registry import fetch as fetch
from .registry import promote as promote
from .registry import resolve as resolve
from .registry import rollback as rollback
