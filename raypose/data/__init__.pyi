from .decoding import Batch as Batch
from .decoding import Decode as Decode
from .reader import Reader as Reader
from .reader import cache_room as cache_room
from .reader import load as load
