from math import pi
from math import ceil

a = 2 * pi
b = ceil(a)
