from .connection import connect as connect
from .connection import data_level as data_level
from .connection import interruptible as interruptible
from .connection import require as require
from .connection import spread as spread
from .connection import store_bytes as store_bytes
from .connection import unwrapped as unwrapped
from .connection import wants_gpu as wants_gpu
