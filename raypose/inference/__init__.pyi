from .embedding import Embedded as Embedded
from .embedding import embed as embed
from .embedding import encode as encode
from .labelling import Labelled as Labelled
from .labelling import Options as Options
from .labelling import label as label
from .pool import kept as kept
