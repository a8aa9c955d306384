from .study import METRIC as METRIC
from .study import SearchResult as SearchResult
from .study import search as search
