from .markup import jpeg_source as jpeg_source
from .markup import page as page
