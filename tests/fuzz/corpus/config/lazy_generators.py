a = []
b = any(1 / v > 0 for v in [1, 0])
c = [0 for _ in range(2) if any([True, a.append(1)])]
d = any(a.append(v) or True for v in [7, 8])
