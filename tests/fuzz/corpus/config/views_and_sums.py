d = {"a": 1, 2: 3}
a = "a" in d.keys()
b = ("a", 1) in d.items()
c = 3 in d.values()
e = d | {"z": 0}
f = sum([0.1] * 10)
