v = 9
a = any(v == 2 for v in [1, 2, 3])
b = [v for w in [1]]
c = [w for w in range(3) if any(w < u for u in [1, 2])]
