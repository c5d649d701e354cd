a = []
b = [a.append(1) or len(a), *[a.append(2) or len(a)], dict(k=len(a))]
c = a.pop() + 10 * len(a)
