from .api import evaluate as evaluate
from .api import load as load
from .api import publish as publish
from .api import search as search
from .api import train as train
from .errors import RayposeError as RayposeError
from .releases.model import Model as Model

__version__: str
