a = [1]
g = (v * k for v in a)
k = 3
a.append(2)
b = list(g)
c = list(g)
del g
