from .model import Clip as Clip
from .model import build as build
