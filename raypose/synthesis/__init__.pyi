from .figures import drawn as drawn
from .figures import joints as joints
from .figures import render as render
from .figures import synthesize as synthesize
