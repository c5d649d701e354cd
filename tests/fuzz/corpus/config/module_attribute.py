import math

x = math.__loader__
