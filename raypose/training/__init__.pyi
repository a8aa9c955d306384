from .run import train as train
from .runs import TrainResult as TrainResult
from .runs import changed_data as changed_data
from .runs import finished as finished
from .runs import locate as locate
