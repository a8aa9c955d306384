from .app import Arguments as Arguments
from .app import build as build
from .endpoint import Endpoint as Endpoint
from .endpoint import running as running
