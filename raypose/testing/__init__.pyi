from .faults import Faults as Faults
from .s3 import embedded_s3 as embedded_s3
