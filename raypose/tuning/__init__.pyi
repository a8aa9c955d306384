from .records import METRIC as METRIC
from .records import SearchResult as SearchResult
from .records import finished as finished
from .study import search as search
