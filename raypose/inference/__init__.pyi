from .embedding import Embedded as Embedded
from .embedding import embed as embed
from .embedding import encode as encode
