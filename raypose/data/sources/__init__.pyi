from .finding import KINDS as KINDS
from .finding import drawings as drawings
from .finding import find as find
from .finding import opened as opened
from .listing import Entry as Entry
from .listing import Listing as Listing
