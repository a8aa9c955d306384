from .run import train as train
from .runs import TrainResult as TrainResult
from .runs import finished as finished
from .runs import locate as locate
