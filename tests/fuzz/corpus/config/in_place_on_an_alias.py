a = [1]
b = a
b += [2]
c = a
c *= 2
d = e = {1}
d |= {2}
f = g = dict(h=1)
f |= {"i": 2}
