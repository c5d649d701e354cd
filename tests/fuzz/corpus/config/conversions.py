x = "ü\n"
a = f"{x!a}"
b = f"{x!r:>9}"
c = "%a" % x
